"""Do two systems differ? Statistics over the stored predictions of finished runs on the same clips.

The first system is the reference (ConKI in the paper's tables); every other one is compared with it, metric by metric:
with a paired t-test (the paper's dagger) and a paired bootstrap that resamples whole videos, both over the common
seeds, and with Welch's t-test over all seeds of each, because seeds of different systems are not natural pairs.
Differences are a system minus the reference. Holm's correction covers the cells of one table, separately for each kind
of test.
Axes: S seeds, N clips, V videos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from conki_cli.data.store.records import video_of
from conki_cli.metrics import rules_of
from conki_cli.reporting.comparison.seeds import Floats, SeedTest, holm, paired_t, welch_t
from conki_cli.reporting.comparison.systems import (
    System,
    check_predicts,
    differing_stores,
    read_system,
    read_systems,
    system_label,
)
from conki_cli.reporting.comparison.videos import NUM_DRAWS, Bootstrap, bootstrap

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
    "check_predicts",
    "compare",
    "differing_stores",
    "explanation",
    "holm",
    "marks",
    "numbered",
    "paired_t",
    "read_system",
    "read_systems",
    "system_label",
    "welch_t",
]

LEVEL = 0.05
"""A mark is shown if p is below this level."""
TESTED = ("mae", "corr", "acc7", "acc2_nonneg", "acc2_pos", "f1_nonneg", "f1_pos", "acc2", "f1")
"""The metrics of the paper's tables, of MOSI and of SIMS: each system's are the cells of one table."""
SIGNS = {"paired_t": "†", "welch": "‡", "bootstrap": "§"}


class CellTests(TypedDict):
    """All test results of one cell; None if a test is undefined."""

    difference: float | None
    """Difference of the two means in the table, each over all seeds of its system."""
    paired_t: SeedTest | None
    welch: SeedTest | None
    bootstrap: Bootstrap | None
    reasons: dict[str, str]
    """Why a test is None, by its name."""


@dataclass(frozen=True)
class Verdict:
    """One system compared with the reference."""

    seeds: tuple[int, ...]
    """The common seeds, which the paired tests use."""
    cells: dict[str, CellTests] | None
    """Test results by metric; None if not tested."""
    reason: str = ""
    """Why it was not tested, or only by Welch's test."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Systems, of which the first is the reference, and one verdict for each of the others."""

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
    videos = numbered([video_of(identity) for identity in systems[0].ids])
    verdicts = [_verdict(systems[0], other, videos, protocol, num_draws) for other in systems[1:]]
    tested = [cell for verdict in verdicts for cell in (verdict.cells or {}).values()]
    _correct([cell["paired_t"] for cell in tested])
    _correct([cell["welch"] for cell in tested])
    _correct([cell["bootstrap"] for cell in tested])
    return Comparison(systems, verdicts, int(videos.max()) + 1, num_draws)


def marks(cells: Mapping[str, CellTests]) -> dict[str, str]:
    """Return the signs of the tests that find a difference, by metric: † uncorrected, ‡ and § Holm-corrected."""
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
    """Explain the signs in a table, and say which tests find nothing or why nothing was tested."""
    if not found.is_tested:
        return ["not tested: a test needs at least two seeds of each system"]
    first = found.systems[0].label
    after = f"p < {LEVEL:g} after Holm's correction for the cells of the table"
    drawn = f"{found.num_draws:,} resamples of the {found.num_videos} videos"
    tests = {
        "paired_t": f"paired t-test over seeds, p < {LEVEL:g}, uncorrected (the paper's dagger)",
        "welch": f"Welch's t-test over seeds, {after}",
        "bootstrap": f"paired bootstrap of the mean over seeds, {drawn}, {after}",
    }
    cells = [verdict.cells for verdict in found.verdicts if verdict.cells]
    signs = {sign for table in cells for marked in marks(table).values() for sign in marked}
    lines = [f"{SIGNS[name]} differs from {first}: {test}" for name, test in tests.items() if SIGNS[name] in signs]
    made = [name for name in tests if any(cell.get(name) for table in cells for cell in table.values())]
    if silent := [tests[name] for name in made if SIGNS[name] not in signs]:
        lines.append(f"no difference from {first} found by: {'; '.join(silent)}")
    return [*(lines or [f"no test against {first} is defined"]), "effect sizes (Cohen's d) and p-values: --json"]


def _correct(tests: Sequence[SeedTest | None] | Sequence[Bootstrap | None]) -> None:
    """Fill in `p_holm` of one kind of test, over all cells of the table in which it is defined."""
    defined = [test for test in tests if test is not None]
    for test, p in zip(defined, holm([test["p"] for test in defined]), strict=True):
        test["p_holm"] = p


def _verdict(reference: System, other: System, videos: npt.NDArray[np.intp], protocol: str, num_draws: int) -> Verdict:
    seeds = tuple(seed for seed in reference.seeds if seed in other.seeds)
    counts = [len(system.seeds) for system in (reference, other)]
    if min(counts) < 2:
        found = f"{counts[0]} of {reference.label} and {counts[1]} of {other.label}"
        return Verdict(seeds, None, f"a test needs at least two seeds of each system, found {found}")
    pair, unpaired = (reference, other), ""
    drawn: dict[str, Bootstrap | None] = {}
    if len(seeds) < 2:
        found = f"seed {seeds[0]}" if seeds else "none"
        unpaired = f"a paired test needs at least two common seeds, found {found}"
    else:
        means = [one.mean_prediction(seeds) for one in pair]
        options: dict[str, Any] = {"rules": rules_of(reference.run.record.score_range), "protocol": protocol}
        options["threshold"] = reference.result.threshold
        drawn = bootstrap(means[0], means[1], reference.scores, videos, num_draws=num_draws, **options)
    undrawn = "" if videos.any() else "it resamples videos, and all clips come from one video"
    why = {"paired_t": unpaired, "bootstrap": unpaired or undrawn}
    names = [name for name in TESTED if name in reference.result.metrics]
    return Verdict(seeds, {name: _cell(pair, name, seeds, drawn.get(name), why) for name in names}, unpaired)


def _cell(
    pair: Sequence[System], metric: str, seeds: Sequence[int], drawn: Bootstrap | None, why: Mapping[str, str]
) -> CellTests:
    """Test one metric; `seeds` are those of both systems, `why` says of a test that it cannot be made at all."""
    common = [_values(system, metric, seeds) for system in pair]
    whole = [_values(system, metric, system.seeds) for system in pair]
    difference = float(np.mean(whole[1]) - np.mean(whole[0]))
    cell: CellTests = {
        "difference": difference if np.isfinite(difference) else None,
        "paired_t": None if why["paired_t"] else paired_t(*common),
        "welch": welch_t(*whole),
        "bootstrap": drawn,
        "reasons": {},
    }
    reasons = {
        "paired_t": why["paired_t"] or _undefined(common) or "the differences do not vary over the seeds",
        "welch": _undefined(whole) or "the values of neither system vary over its seeds",
        "bootstrap": why["bootstrap"] or "the metric is undefined for the mean prediction of a system",
    }
    cell["reasons"] = {name: reason for name, reason in reasons.items() if not cell.get(name)}
    return cell


def _undefined(values: Sequence[Floats]) -> str:
    return "" if all(np.isfinite(column).all() for column in values) else "the metric is undefined for a seed"


def _values(system: System, metric: str, seeds: Sequence[int]) -> Floats:
    values = system.result.metrics[metric]["values"]
    return np.array([values[system.seeds.index(seed)] for seed in seeds], dtype=np.float64)


def numbered(names: Sequence[str]) -> npt.NDArray[np.intp]:
    """Return the number of each name, counted from 0 in order of appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.intp)
