"""Means and standard deviations of feature columns, block by block, in float64.

Axes: T frames, d features per frame.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONSTANT_BELOW = 1e-6
"""A column is constant if its deviation is at most this share of its mean (float32 rounds by a share of 6e-8)."""

Columns = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and sum of squared distances from the mean of every column, [d] each."""

    count: int
    mean: Columns
    squares: Columns

    def joined(self, block: npt.NDArray[np.float32]) -> "Moments":
        """Return the moments including further frames [T, d]: each block around its own mean, then Chan's rule.

        Sums of plain squares would lose a deviation of 1 at a mean of 1e8; this does not (Chan et al. 1979).
        """
        if not len(block):
            return self
        mean = block.mean(axis=0, dtype=np.float64)
        centred = block - mean  # [T, d] float64
        squares = np.einsum("td,td->d", centred, centred)
        count = self.count + len(block)
        apart = mean - self.mean
        return Moments(
            count,
            self.mean + apart * (len(block) / count),
            self.squares + squares + apart**2 * (self.count * len(block) / count),
        )

    @property
    def sd(self) -> Columns:
        """Standard deviations over all frames (ddof 0), [d]; 0 without frames."""
        deviation: Columns = np.sqrt(self.squares / max(1, self.count))
        return deviation

    @property
    def is_constant(self) -> npt.NDArray[np.bool_]:
        """Which columns are constant up to rounding, [d]."""
        constant: npt.NDArray[np.bool_] = self.sd <= CONSTANT_BELOW * np.abs(self.mean)
        return constant


def no_moments(width: int) -> Moments:
    """Return the moments of no frames with `width` features."""
    return Moments(0, np.zeros(width), np.zeros(width))


def standardize(values: npt.NDArray[np.float32], mean: Columns, divisor: Columns) -> None:
    """Turn frames [T, d] into z-scores, in place; the divisor of a column that is only centred is 1."""
    with np.errstate(over="ignore"):
        values[:] = (values - mean) / divisor  # float64
