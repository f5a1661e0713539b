"""Do two systems differ? Statistics over the stored predictions of finished runs that were judged on the same clips.

The first system is the reference (ConKI in the paper's tables); every other one is held against it, metric by metric,
over the seeds that both have: a paired t-test (the paper's dagger), Welch's t-test, since seeds of different systems
are no natural pairs, and a paired bootstrap that draws whole videos. Differences are a system minus the reference.
Holm's correction covers the cells of one table, for each kind of test by itself. Axes: S seeds, N clips, V videos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from conki_cli.comparison.seeds import Floats, SeedTest, holm, paired_t, welch_t
from conki_cli.comparison.systems import System, read_systems, system_label
from conki_cli.comparison.videos import NUM_DRAWS, Bootstrap, bootstrap, rules_of
from conki_cli.store import video_of

__all__ = [
    "NUM_DRAWS",
    "TESTED",
    "Bootstrap",
    "CellTests",
    "Comparison",
    "SeedTest",
    "System",
    "Verdict",
    "bootstrap",
    "compare",
    "explanation",
    "holm",
    "marks",
    "paired_t",
    "read_systems",
    "rules_of",
    "system_label",
    "welch_t",
]

LEVEL = 0.05
"""A mark stands where p is below it."""
TESTED = ("mae", "corr", "acc7", "acc2_nonneg", "acc2_pos", "f1_nonneg", "f1_pos", "acc2", "f1")
"""The metrics of the paper's tables, of MOSI and of SIMS: each system's are the cells of one table."""
SIGNS = {"paired_t": "†", "welch": "‡", "bootstrap": "§"}


class CellTests(TypedDict):
    """Everything that is said of one cell; None where a test is not defined."""

    difference: float | None
    """Mean over the common seeds."""
    paired_t: SeedTest | None
    welch: SeedTest | None
    bootstrap: Bootstrap | None


@dataclass(frozen=True)
class Verdict:
    """One system held against the reference."""

    seeds: tuple[int, ...]
    """The seeds that both have."""
    cells: dict[str, CellTests] | None
    """By metric; None: not tested."""
    reason: str = ""
    """Why it was not tested."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Systems, the first of which is the reference, and one verdict for each of the others."""

    systems: Sequence[System]
    verdicts: Sequence[Verdict]
    num_videos: int
    num_draws: int

    @property
    def is_tested(self) -> bool:
        """Say whether anything was tested."""
        return any(verdict.cells for verdict in self.verdicts)


def compare(systems: Sequence[System], protocol: str = "all", *, num_draws: int = NUM_DRAWS) -> Comparison:
    """Test every system against the first one.

    Args:
        systems: as `read_systems` returns them.
        protocol: "nonzero" takes MAE and Corr on the clips whose score is not 0.
        num_draws: R of the bootstrap.
    """
    videos = _numbered([video_of(identity) for identity in systems[0].ids])
    verdicts = [_verdict(systems[0], other, videos, protocol, num_draws) for other in systems[1:]]
    tested = [cell for verdict in verdicts for cell in (verdict.cells or {}).values()]
    _correct([cell["paired_t"] for cell in tested])
    _correct([cell["welch"] for cell in tested])
    _correct([cell["bootstrap"] for cell in tested])
    return Comparison(systems, verdicts, int(videos.max()) + 1, num_draws)


def marks(cells: Mapping[str, CellTests]) -> dict[str, str]:
    """Return the signs of the tests that find a difference, by metric: † as it is, ‡ and § after Holm's correction."""
    found = {}
    for metric, cell in cells.items():
        t, welch, drawn = cell["paired_t"], cell["welch"], cell["bootstrap"]
        is_found = {
            "paired_t": t is not None and t["p"] < LEVEL,
            "welch": welch is not None and welch["p_holm"] < LEVEL,
            "bootstrap": drawn is not None and drawn["p_holm"] < LEVEL,
        }
        found[metric] = "".join(SIGNS[name] for name in SIGNS if is_found[name])
    return {metric: signs for metric, signs in found.items() if signs}


def explanation(found: Comparison) -> list[str]:
    """Say below a table which test each sign is, and what was drawn; why there is none where nothing was tested."""
    if not found.is_tested:
        return ["not tested: a test needs two seeds that both systems have"]
    first = found.systems[0].label
    after = f"p < {LEVEL:g} after Holm's correction for the cells of the table"
    drawn = f"{found.num_draws:,} draws of the {found.num_videos} videos"
    lines = {
        "paired_t": f"differs from {first}: paired t-test over seeds, p < {LEVEL:g}, uncorrected (the paper's dagger)",
        "welch": f"differs from {first}: Welch's t-test over seeds, {after}",
        "bootstrap": f"differs from {first}: paired bootstrap of the mean over seeds, {drawn}, {after}",
    }
    if found.num_videos < 2:
        lines["bootstrap"] = "no bootstrap: it draws videos, and all clips are of one"
    return [*(f"{SIGNS[name]} {line}" for name, line in lines.items()), "effect sizes (Cohen's d) and p-values: --json"]


def _correct(tests: Sequence[SeedTest | None] | Sequence[Bootstrap | None]) -> None:
    """Fill in `p_holm` of one kind of test, over all cells of the table in which it is defined."""
    defined = [test for test in tests if test is not None]
    for test, p in zip(defined, holm([test["p"] for test in defined]), strict=True):
        test["p_holm"] = p


def _verdict(reference: System, other: System, videos: npt.NDArray[np.intp], protocol: str, num_draws: int) -> Verdict:
    seeds = tuple(seed for seed in reference.seeds if seed in other.seeds)
    if len(seeds) < 2:
        found = f"seed {seeds[0]}" if seeds else "none"
        return Verdict(seeds, None, f"a test needs two seeds that both systems have, found {found}")
    pair = (reference, other)
    means = [np.mean([system.predictions[seed] for seed in seeds], axis=0, dtype=np.float64) for system in pair]
    rules = rules_of(reference.run.result["score_range"])
    drawn = bootstrap(means[0], means[1], reference.scores, videos, rules=rules, protocol=protocol, num_draws=num_draws)
    cells: dict[str, CellTests] = {}
    for name in (name for name in TESTED if name in reference.result["metrics"]):
        one, two = (_values(system, name, seeds) for system in pair)
        difference = float(np.mean(two - one))
        cells[name] = {
            "difference": difference if np.isfinite(difference) else None,
            "paired_t": paired_t(one, two),
            "welch": welch_t(one, two),
            "bootstrap": drawn[name],
        }
    return Verdict(seeds, cells)


def _values(system: System, metric: str, seeds: Sequence[int]) -> Floats:
    values = system.result["metrics"][metric]["values"]
    return np.array([values[system.seeds.index(seed)] for seed in seeds], dtype=np.float64)


def _numbered(names: Sequence[str]) -> npt.NDArray[np.intp]:
    """Return the number of each name, counted from 0 in order of appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.intp)
