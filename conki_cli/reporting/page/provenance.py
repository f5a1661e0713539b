"""The provenance of numbers: training, settings, versions, data, and the commands that reproduce them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from conki_cli import MODALITIES
from conki_cli.config.models import label_of
from conki_cli.config.resolving import to_toml
from conki_cli.config.sections import RunConfig
from conki_cli.config.switches import MODALITY_SWITCHES, SWITCHES
from conki_cli.reporting.comparison import System
from conki_cli.reporting.page.content import Recipe, Sheet
from conki_cli.reporting.page.recorded import environments
from conki_cli.reporting.page.stores import StoreFacts
from conki_cli.reporting.tables.grid import seeds_text
from conki_cli.reporting.tables.plans import duration
from conki_cli.runs import SeedResult
from conki_cli.runs.differences import learnt_settings
from conki_cli.system.errors import quoted

_NOT_RECORDED = "not recorded"
_PLACES = ("--workspace", "--out", "--export", "--track")
"""Options that say where things go on somebody's machine."""
_LOOKS = ("--json", "--overwrite", "--resume")
_JOB = "job.py"
"""The program of a submitted job, whose words are places of one machine; older versions stored them."""


def training_sheet(systems: Sequence[System], stores: Mapping[str, StoreFacts]) -> Sheet:
    """Say what was trained on what: one column per system, and a row where any has something to say."""
    columns = [dict(_training(system, _seen(system, stores))) for system in systems]
    return _sheet([system.label for system in systems], columns)


def _seen(system: System, stores: Mapping[str, StoreFacts]) -> dict[str, StoreFacts]:
    """Return the stores in the version that a system saw."""
    return {name: store for name, store in stores.items() if system.run.record.data.get(name) == store.content}


def _sheet(labels: Sequence[str], columns: Sequence[Mapping[str, str]], *, merges: bool = True) -> Sheet:
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "") or "–" for column in columns)] for name in names]
    return Sheet(["", *labels], [row for row in rows if set(row[1:]) != {"–"}], merges=merges)


def _training(system: System, stores: Mapping[str, StoreFacts]) -> Iterator[tuple[str, str]]:
    config, result = system.config, system.result
    seeds = [result for seed, result in system.run.results().items() if seed in system.seeds]
    dataset = result.dataset
    yield "model", label_of(config.model.name)
    yield "left out", "; ".join(f"{switch}: {SWITCHES[switch]}" for switch in config.model.drop)
    yield "stage 1", _first_stage(config, seeds, stores)
    yield "trained on", _clips(dataset, "train", stores, config.data.limit)
    yield "selected by", f"the lowest MAE on {_clips(dataset, 'valid', stores, config.data.limit)}"
    yield "evaluated on", f"{dataset}, {result.split} split, {result.n:,} clips"
    there = stores[dataset].modalities if dataset in stores else MODALITIES
    used = [modality for modality in there if not config.dropped(MODALITY_SWITCHES[modality])]
    yield "modalities", ", ".join(used)
    yield "text encoder", "" if config.dropped("T") else config.model.text_encoder
    yield "seeds", seeds_text(system.seeds).removeprefix("seeds ").removeprefix("seed ")
    yield "best epoch", ", ".join(f"{seed.best_epoch or '?'} of {seed.epochs or '?'}" for seed in seeds)
    yield "parameters", _parameters(seeds[0].parameters)
    times = [seed.seconds for seed in seeds if seed.seconds]
    yield "training", f"{', '.join(duration(seconds) for seconds in times)} per seed" if times else ""
    yield "run", system.run.name


def _first_stage(config: RunConfig, seeds: Sequence[SeedResult], stores: Mapping[str, StoreFacts]) -> str:
    if not config.needs_pretraining:
        return "none: no external data"
    what = "the whole network" if config.transfers_whole or config.is_baseline else "the adapters"
    run = next((seed.stage_1 for seed in seeds if seed.stage_1), "")
    epochs = config.pretraining.num_epochs
    clips = " and ".join(_clips(name, "train", stores, config.data.limit) for name in config.externals)
    return f"{what} on {clips}, {epochs} epochs{run and f' (run {run})'}"


def _clips(dataset: str, split: str, stores: Mapping[str, StoreFacts], limit: int) -> str:
    """Name a split of a store and how many of its clips were used, at most `limit` unless that is 0."""
    named = f"{dataset}, {split} split"
    if dataset not in stores:
        return f"{named}, at most {limit:,} clips (--limit)" if limit else named
    size = stores[dataset].sizes[split]
    return f"{named}, {limit:,} of {size:,} clips (--limit)" if 0 < limit < size else f"{named}, {size:,} clips"


def _parameters(found: Mapping[str, int]) -> str:
    if not {"all", "trained"} <= found.keys():
        return ""
    return f"{found['all']:,}, of which {found['trained']:,} trained in stage 2"


def differing_sheet(systems: Sequence[System]) -> Sheet | None:
    """Return the settings in which the systems differ; None with one system, or where none differs."""
    if len(systems) < 2:
        return None
    columns = [{path: _shown(value) for path, value in learnt_settings(one.config).items()} for one in systems]
    paths = sorted({path for column in columns for path in column})
    differing = [path for path in paths if len({column.get(path) for column in columns}) > 1]
    if not differing:
        return None
    kept = [{path: column.get(path, "not read") for path in differing} for column in columns]
    return _sheet([system.label for system in systems], kept)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "nothing" if isinstance(value, list | tuple) else str(value)


def versions_sheet(systems: Sequence[System]) -> Sheet:
    """Return versions and machine of every system; several values of its seeds stand side by side."""
    columns = []
    for system in systems:
        column: dict[str, list[str]] = {}
        for recorded in chain.from_iterable(environments(system.run, system.seeds).values()):
            packages = recorded.get("packages")
            flat = {key: recorded.get(key) for key in ("conki", "git_commit", "python")}
            flat |= packages if isinstance(packages, dict) else {}
            flat |= {key: recorded.get(key) for key in ("platform", "device", "threads")}
            for name, value in flat.items():
                column.setdefault(name.replace("git_commit", "commit"), []).append("" if value is None else str(value))
        columns.append({name: ", ".join(dict.fromkeys(values)) for name, values in column.items()})
    return _sheet([system.label for system in systems], columns)


def data_sheet(systems: Sequence[System], stores: Mapping[str, StoreFacts]) -> Sheet:
    """Return the stores that the systems saw: sizes, hashes, source."""
    sources = _source_hashes(systems)
    users: dict[tuple[str, str], list[str]] = {}
    for system in systems:
        for name, content in system.run.record.data.items():
            users.setdefault((name, str(content)), []).append(system.label)
    names = [name for name, _ in users]
    labels = [name if names.count(name) == 1 else f"{name} ({', '.join(of)})" for (name, _), of in users.items()]
    columns = []
    for name, content in users:
        known = stores.get(name)
        store = known if known is not None and known.content == content else None
        sizes = {f"{split} clips": f"{size:,}" for split, size in store.sizes.items()} if store else {}
        facts = {
            "modalities": ", ".join(store.modalities) if store else "",
            "normalisation": store.normalization if store else "",
            "source": store.source if store else "",
            "SHA-256 of the source": sources.get((name, content), _NOT_RECORDED),
            "SHA-256 of all clips": content,
        }
        columns.append({**sizes, **facts})
    return _sheet(labels, columns, merges=False)


def _source_hashes(systems: Sequence[System]) -> dict[tuple[str, str], str]:
    """Return the hashes of the source files by data set and content id."""
    found = {}
    for system in systems:
        for recorded in chain.from_iterable(environments(system.run, system.seeds).values()):
            data = recorded.get("data")
            for name, entry in data.items() if isinstance(data, dict) else ():
                if isinstance(entry, dict) and entry.get("source"):
                    found[name, str(entry.get("store"))] = str(entry["source"])
    return found


def recipes(systems: Sequence[System]) -> list[Recipe]:
    """Return how every run is made again: the commands that were given, and its settings."""
    return [Recipe(one.label, one.run.name, _commands(one), to_toml(one.config)) for one in systems]


def _commands(system: System) -> list[str]:
    given = []
    for recorded in chain.from_iterable(environments(system.run, system.seeds).values()):
        words = recorded.get("command")
        if isinstance(words, list) and len(words) > 1 and Path(str(words[0])).name != _JOB:
            given.append(" ".join(["conki", *(quoted(word) for word in _portable(list(map(str, words[1:]))))]))
    return list(dict.fromkeys(given))


def _portable(words: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command line but for those that hold for one machine or one look alone."""
    is_place = False
    for word in words:
        name = word.partition("=")[0]
        if not is_place and name not in (*_PLACES, *_LOOKS):
            yield word
        is_place = not is_place and word in _PLACES
