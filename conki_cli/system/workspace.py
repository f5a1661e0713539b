"""The folder that a user works in; quick to import."""

import os
from dataclasses import dataclass
from pathlib import Path

BUILT_IN_ENCODER = "demo"
"""Name of the small BERT that is built on the spot for the demo corpora."""


def is_path(word: str) -> bool:
    """Tell whether a word is a path: it has a separator (`./mosi`). Else it names something, whatever lies here."""
    return word in (os.curdir, os.pardir) or os.sep in word or (os.altsep is not None and os.altsep in word)


@dataclass(frozen=True)
class Workspace:
    """The folder under which everything lies."""

    root: Path

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return self.root / "runs"

    @property
    def stores(self) -> Path:
        """The folder of all feature stores."""
        return self.root / "features"

    @property
    def states(self) -> Path:
        """The folder of all cached states of frozen text encoders."""
        return self.root / "frozen"

    def store(self, dataset: str) -> Path:
        """Return where the feature store of a data set lies."""
        return self.stores / f"{dataset}.h5"

    def store_called(self, word: str) -> Path:
        """Return the store that a word means: a path if it is one or ends in .h5, else the data set of that name."""
        return Path(word) if is_path(word) or word.endswith(".h5") else self.store(word)

    @property
    def built_in_encoder(self) -> Path:
        """The folder of the demo's small BERT."""
        return self.root / "encoders" / BUILT_IN_ENCODER

    def encoder(self, name: str) -> str:
        """Return the name or folder from which a text encoder is loaded."""
        return str(self.built_in_encoder) if name == BUILT_IN_ENCODER else name
