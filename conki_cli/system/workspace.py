"""The folder that a user works in; fast to import."""

import os
from dataclasses import dataclass
from pathlib import Path

BUILT_IN_ENCODER = "demo"
"""Name of the small BERT that is built for the demo corpora."""


def is_path(word: str) -> bool:
    """Say whether a word is a path, which has a separator (`./mosi`); otherwise it is a name."""
    return word in (os.curdir, os.pardir) or os.sep in word or (os.altsep is not None and os.altsep in word)


@dataclass(frozen=True)
class Workspace:
    """The folder that holds everything."""

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

    @property
    def trials(self) -> Path:
        """The folder of the runs of sweeps; beside runs/, so that caches are shared."""
        return self.root / "trials"

    @property
    def jobs(self) -> Path:
        """The folder of what was submitted."""
        return self.root / "jobs"

    def store(self, dataset: str) -> Path:
        """Return the path of the feature store of a data set."""
        return self.stores / f"{dataset}.h5"

    def store_called(self, word: str) -> Path:
        """Return the path of the store that a word means: the path itself (or *.h5), else the data set's store."""
        return Path(word) if is_path(word) or word.endswith(".h5") else self.store(word)

    @property
    def built_in_encoder(self) -> Path:
        """The folder of the demo's small BERT."""
        return self.root / "encoders" / BUILT_IN_ENCODER

    def encoder(self, name: str) -> str:
        """Return the name or folder from which a text encoder is loaded."""
        return str(self.built_in_encoder) if name == BUILT_IN_ENCODER else name
