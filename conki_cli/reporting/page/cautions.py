"""Warnings for the reader of a report: what limits the trust in its numbers, one line each with its subject."""

import math
from collections.abc import Iterator, Mapping, Sequence

from conki_cli.data.store.records import counted
from conki_cli.reporting.comparison import System
from conki_cli.reporting.page.recorded import environments
from conki_cli.reporting.page.stores import StoreFacts, leaks
from conki_cli.reporting.tables.grid import seeds_text
from conki_cli.runs import Run, check_name, learning_warnings
from conki_cli.system.errors import ConkiError

PAPERS_SEEDS = 5
"""The paper's numbers are means of five runs (Section 4.3)."""
Caution = tuple[str, str]


def cautions(systems: Sequence[System], stores: Mapping[str, StoreFacts], split: str) -> list[Caution]:
    """Return everything that speaks against believing the numbers, the same line once."""
    found: list[Caution] = []
    for system in systems:
        found += [(system.label, line) for line in _of_system(system, split)]
    found += _few_seeds(systems)
    found += _of_data(systems, stores, split)
    return list(dict.fromkeys(found))


def _of_system(system: System, split: str) -> Iterator[str]:
    yield from system.result.warnings
    median = system.result.median.metrics.get("mae", math.nan) if system.result.median else math.nan
    maes = dict(zip(system.seeds, system.result.metrics["mae"]["values"], strict=True))
    if failed := {seed: mae for seed, mae in maes.items() if mae >= median}:
        shown = ", ".join(f"{mae:.3f}" for mae in failed.values())
        yield (
            f"{seeds_text(list(failed))}: the {split} MAE ({shown}) is not below that of predicting the training "
            f"median ({median:.3f})"
        )
    left_out = sorted(set(system.run.record.seeds) - set(system.seeds))
    if left_out:
        yield f"{seeds_text(left_out)} {'is' if len(left_out) == 1 else 'are'} not finished or left out"
    yield from _stage_one(system)
    yield from _truncated(system, split)
    yield from _mixed_versions(system)


def _stage_one(system: System) -> Iterator[str]:
    """Yield the warnings about the stage 1 that a run starts from, where that still lies beside it."""
    used: dict[str, list[int]] = {}
    for seed, result in system.run.results().items():
        if seed in system.seeds and result.stage_1:
            used.setdefault(result.stage_1, []).append(seed)
    for name, seeds in sorted(used.items()):
        try:
            first = Run(system.run.path.parent / check_name(name))
            if (first.path / "result.json").is_file():
                yield from (f"stage 1, {line}" for line in learning_warnings(first, seeds))
        except (ConkiError, KeyError, TypeError):
            continue  # the doctor examines runs; a report is about the evaluated one


def _truncated(system: System, split: str) -> Iterator[str]:
    result = system.run.seed_result(system.seeds[0])
    for modality, count in (result.cut.get(split, {}) if result is not None else {}).items():
        if count:
            limit = system.config.data.max_frames
            yield f"{modality} of {counted(count, 'clip')} of the {split} split is truncated to {limit} frames"


def _mixed_versions(system: System) -> Iterator[str]:
    used: dict[str, list[int]] = {}
    for seed, parts in environments(system.run, system.seeds).items():
        for way in dict.fromkeys(map(_way, parts)):
            used.setdefault(way, []).append(seed)
    if len(used) > 1:
        ways = "; ".join(f"{way} ({seeds_text(seeds)})" for way, seeds in used.items())
        yield f"its seeds were trained in different ways: {ways}"


def _way(recorded: Mapping[str, object]) -> str:
    packages = recorded.get("packages")
    torch = packages.get("torch") if isinstance(packages, dict) else None
    ranks = f", {recorded['ranks']} processes" if recorded.get("ranks", 1) != 1 else ""
    return f"torch {torch}, {recorded.get('device')}, {recorded.get('threads')} threads{ranks}"


def _few_seeds(systems: Sequence[System]) -> list[Caution]:
    few = {system.label: len(system.seeds) for system in systems if len(system.seeds) < PAPERS_SEEDS}
    if not few:
        return []
    counts = set(few.values())
    shown = (
        counted(counts.pop(), "seed") if len(counts) == 1 else ", ".join(f"{n} of {name}" for name, n in few.items())
    )
    return [("few seeds", f"{shown}: the numbers change with the seeds; the paper's are means of five runs")]


def _of_data(systems: Sequence[System], stores: Mapping[str, StoreFacts], split: str) -> Iterator[Caution]:
    dataset = systems[0].result.dataset
    used = {name for system in systems if system.config.needs_pretraining for name in system.config.externals}
    for name in sorted({dataset, *used} - stores.keys()):
        yield ("not checked", f"whether {name} shares videos or texts between splits: its store could not be read here")
    if (target := stores.get(dataset)) is None:
        return
    external = [store for name, store in stores.items() if name in used and name != dataset]
    yield from (("leak", line) for line in leaks(target, external, split))
    for store in (target, *external):
        for note in store.notes:
            if not note.endswith("they are not independent of each other"):  # said above, of the stores as they are
                yield (store.dataset, note)
