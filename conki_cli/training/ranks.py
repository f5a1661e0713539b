"""The processes of one training, as the loop sees them; here there is one, and nothing is shared or gathered.

`training/together.py` has several: each computes its share of every batch, and all take the same step.

Axis letters: B clips of the whole batch, b of this rank's share.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from conki_cli.model.contract import Output


@dataclass(eq=False)
class Ranks:
    """The ranks of a training; this class is one process alone."""

    rank: int = 0
    """This process; rank 0 alone writes, prints and locks."""
    count: int = 1
    """R."""

    def share(self, indices: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return this rank's part [b] of a batch [B], whose clips have these lengths [B].

        The ranks get clips of about the same length together. A rank without a clip computes the first one, without
        effect.
        """
        return indices

    def whole(self, output: Output) -> Output:
        """Return the output for the whole batch, in its order; parts are gathered when the loss reads them."""
        return output

    def normalise_together(self, model: nn.Module) -> None:
        """Let every BatchNorm of a model use the statistics of the whole batch."""

    def average(self, model: nn.Module) -> None:
        """Average the gradients over the ranks."""

    def seed(self, *numbers: int) -> None:
        """Seed the dropout of a step: a function of these numbers and the rank, so that masks differ between ranks."""

    def is_mine(self, number: int) -> bool:
        """Say whether this rank predicts a batch, by its number."""
        return number % self.count == self.rank

    def collect(self, own: list[Any]) -> list[Any]:
        """Return the items of all ranks in the order in which `is_mine` shares them out."""
        return own

    def from_first(self, value: Any = None) -> Any:
        """Return what rank 0 gives; the others give nothing."""
        return value


ALONE = Ranks()
"""One process."""
