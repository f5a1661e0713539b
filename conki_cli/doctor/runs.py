"""Run folders: what was recorded, what it needs from elsewhere, and each of its seeds."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from conki_cli.config.resolving import resolve, stage_one, version_1_stage_one
from conki_cli.config.sections import RunConfig
from conki_cli.doctor.findings import (
    FAULT,
    REMARK,
    UNREAD,
    Finding,
    Visit,
    fact_of,
    fault,
    guarded,
    is_newer,
    is_unread,
    ordinary,
    tried,
)
from conki_cli.doctor.kept import encoder_findings
from conki_cli.doctor.seeds import Record, predictions_of_all, seed_findings
from conki_cli.doctor.stores import known_store
from conki_cli.doctor.traces import left_over
from conki_cli.doctor.weights import read_checkpoint
from conki_cli.runs import Run, RunRecord, digest_of, read_scale, stored_predictions
from conki_cli.runs.learning import doubts_about_learning
from conki_cli.system.errors import one_line, quoted
from conki_cli.system.files import read_json
from conki_cli.system.locks import holder_of, lock_beside
from conki_cli.system.readable import status_of
from conki_cli.system.workspace import BUILT_IN_ENCODER
from conki_cli.text.vocabulary import DOUBTFUL


def is_run_folder(path: Path) -> bool:
    """Say whether a folder is a run, or what is left of one."""
    return any((path / name).exists() for name in ("config.toml", "result.json")) or any(path.glob("seed-*"))


def run_findings(run: Run, visit: Visit) -> Iterator[Finding]:
    """Examine a run folder and its seeds."""
    if not is_run_folder(run.path):
        yield Finding(str(run.path), "remark", "holds nothing of a run", "move it away, or delete it")
        return
    config, bad_config = tried(_config, run)
    result, bad_result = tried(_result, run)
    seeds = sorted({*(result.seeds if result is not None else ()), *_seed_folders(run)})
    finished = [seed for seed in seeds if tried(run.seed_result, seed)[0] is not None]
    encoder = list(_encoder_files(run.path / "encoder", config, is_needed=bool(finished)))
    holder = next(filter(None, (holder_of(lock) for lock in (lock_beside(run.path), *map(run.seed_lock, seeds)))), "")
    record = Record(run, config, result, _command(run, visit), holder, has_encoder=not encoder)
    if holder:
        yield Finding(str(run.path), "remark", f"{holder} is at work on it", "wait for it, and look again")
    parts = [_settings(record, bad_config, bad_result)]
    if result is not None:
        yield _summary(run, result, len(finished), len(seeds))
        parts.append(_data(run, result, visit, is_finished=len(finished) == len(seeds)))
        parts += [predictions_of_all(record, finished), _metrics(record, result, finished)]
        parts.append(_learning(run, finished))
    parts += [_scale(run), _texts(run, finished), _stage_one(run, finished, visit), _environments(run, seeds, visit)]
    parts.append(iter(encoder))
    parts += [guarded(run.seed_folder(seed), seed_findings(record, seed, visit)) for seed in seeds]
    parts.append(_encoder_weights(record, visit))
    if not holder:
        parts.append(left_over(run.path, deep=True))
    for part in parts:
        yield from guarded(run.path, part)


def _learning(run: Run, finished: Sequence[int]) -> Iterator[Finding]:
    for fact, advice in tried(doubts_about_learning, run, finished)[0] or ():
        yield Finding(str(run.path), REMARK, fact, advice)


def _config(run: Run) -> RunConfig:
    ordinary(run.path / "config.toml")
    return run.config


def _result(run: Run) -> RunRecord:
    ordinary(run.path / "result.json")
    return run.record


def _summary(run: Run, result: RunRecord, num_finished: int, num_seeds: int) -> Finding:
    what = f"{result.label}, stage {1 if result.stage == 'pretrain' else 2} on {result.dataset}"
    return Finding(str(run.path), "ok", f"{what}: {num_finished} of {num_seeds} seeds finished")


def _seed_folders(run: Run) -> list[int]:
    names = [path.name.removeprefix("seed-") for path in run.path.glob("seed-*")]
    return [int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,18}", name)]


def _command(run: Run, visit: Visit) -> str:
    """Return the command that trains what is not finished, as its settings say; in words where they do not."""

    def command() -> str:
        _config(run)
        config = resolve(config_file=run.path / "config.toml")
        result = _result(run)
        is_first = result.stage == "pretrain"
        stages = (stage_one(config), version_1_stage_one(config)) if is_first else (config,)
        if result.digest not in map(digest_of, stages):
            return ""
        return visit.command(f"{'pretrain' if is_first else 'finetune'} --config {quoted(run.path / 'config.toml')}")

    is_whole = not any(tried(read, run)[1] for read in (_config, _result))
    return tried(command)[0] or f"the command that made the run{'' if is_whole else ' (repair the run first)'}"


def _settings(record: Record, bad_config: Exception | None, bad_result: Exception | None) -> Iterator[Finding]:
    """Report config.toml and result.json where they cannot be read, and a config.toml that was changed."""
    run, subject = record.run, str(record.run.path)
    for name, error in (("config.toml", bad_config), ("result.json", bad_result)):
        path = run.path / name
        if error is not None and (is_unread(error, path) or path.exists()):
            advice = "install a newer conki" if is_newer(error) else f"restore {name} from a copy, or {_anew(run.path)}"
            yield fault(subject, error, path, advice)
        elif error is not None:
            mend = (
                "the command that made the run writes it again"
                if name == "result.json"
                else f"restore it, or {_anew(run.path)}"
            )
            yield Finding(subject, "fault", f"{name} is missing", mend)
    if record.config is None or record.result is None:
        return
    config, made = record.config, record.result.digest
    now, error = tried(digest_of, config)
    if now != made:
        encoder = config.model.text_encoder
        found = f"now give {now}" if now is not None else f"give none ({fact_of(error, run.path) if error else ''})"
        what = f"its settings gave the digest {one_line(made[:20])} and {found}: config.toml was changed"
        if encoder != BUILT_IN_ENCODER:
            what += f", or the text encoder {encoder} is another one or not here"
        mend = "restore config.toml and the encoder; until then the same command makes another run"
        yield Finding(subject, "fault" if encoder == BUILT_IN_ENCODER else "remark", what, mend)


def _metrics(record: Record, result: RunRecord, finished: Sequence[int]) -> Iterator[Finding]:
    """Compare the metrics of a finished run with those of its seeds."""
    run: Run = record.run
    differing: list[str] = []
    if result.state != "finished" or tuple(finished) != result.seeds:
        return
    of_seeds = [one for seed in result.seeds if (one := run.seed_result(seed)) is not None]
    for split, metrics in result.metrics.items():
        stored = {name: found.get("values") for name, found in metrics.items()}
        expected = {name: [one.metrics.get(split, {}).get(name) for one in of_seeds] for name in metrics}
        differing += [f"{split} {name}" for name in metrics if stored[name] != expected[name]]
    if differing:
        what = f"result.json has other metrics than its seeds: {', '.join(differing[:5])}"
        advice = f"{record.command} writes them again"
        if contradicted := [seed for seed in finished if _is_contradicted(run, seed)]:
            names = ", ".join(f"seed {seed}" for seed in contradicted)
            advice = f"first repair {names}, whose metrics do not match its predictions (below)"
        yield Finding(str(run.path), "fault", what, advice)


def _is_contradicted(run: Run, seed: int) -> bool:
    """Say whether predictions of a seed give other metrics than the seed says that they had."""
    result = run.seed_result(seed)
    splits = result.metrics if result is not None else {}
    return any(tried(stored_predictions, run, split, [seed])[1] is not None for split in splits)


def _data(run: Run, result: RunRecord, visit: Visit, *, is_finished: bool) -> Iterator[Finding]:
    """Compare the stores that a run was trained on with those of the workspace."""
    lost = "it cannot be continued"
    if is_finished:
        lost = "its training split cannot be predicted, nor further seeds trained"
    for dataset, content in result.data.items():
        path = visit.workspace.store(str(dataset))
        known = known_store(path, visit)
        if known is not None and known.content_id == content:
            continue
        make = visit.command(f"prepare --dataset {quoted(dataset)}")
        if path in visit.unread:
            what, advice = f"its store {path} could not be read", UNREAD
        elif not path.exists():
            what, advice = f"its store {path} is missing", f"make it again, from the same file: {make}"
        elif known is None:
            what, advice = f"its store {path} cannot be opened", f"make it again, from the same file: {make}"
        else:
            versions = f"{known.content_id[:12]}..., trained on {one_line(str(content)[:12])}..."
            what = f"its store {path} is another version: {versions}"
            advice = "restore that version, or train under a new --name"
        severity = REMARK if is_finished else FAULT
        yield Finding(str(run.path), severity, f"{what}, so {lost}", advice)


def _encoder_files(folder: Path, config: RunConfig | None, *, is_needed: bool) -> Iterator[Finding]:
    """Examine tokenizer and configuration of the text encoder; they are `needed` once a seed is finished."""
    if not folder.exists() and not (is_needed and config is not None and not config.dropped("T")):
        return
    source = f" of {config.model.text_encoder}" if config is not None else ""
    advice = f"restore configuration and tokenizer{source} there, or {_anew(folder.parent)}"
    yield from guarded(folder, encoder_findings(folder, weights=False, advice=advice))


def _texts(run: Run, finished: Sequence[int]) -> Iterator[Finding]:
    """Say where a run was trained on texts of which its text encoder knows too little."""
    texts = [result.texts for seed in finished if (result := run.seed_result(seed)) is not None]
    shares = {split: float(counts["unknown_share"]) for found in texts for split, counts in found.items()}
    doubtful = [f"{100 * share:.1f} % in {split}" for split, share in shares.items() if share >= DOUBTFUL]
    if doubtful:
        what = f"many tokens of its texts are unknown to its text encoder: {', '.join(doubtful)}"
        advice = "train with an encoder of the texts' language and its own tokenizer, or lowercase texts if it is cased"
        yield Finding(str(run.path), "remark", what, advice)


def _encoder_weights(record: Record, visit: Visit) -> Iterator[Finding]:
    """Examine the weights of a frozen text encoder, where the run keeps them because it predicts with them."""
    path = record.run.frozen_encoder
    weights = read_checkpoint(path, visit, record.known)
    lacking = record.needed.get("encoder", frozenset()) - weights.names
    if weights.problem:
        yield Finding(str(path.parent), "fault", weights.problem, weights.advice(_anew(record.run.path)))
    elif lacking:
        lost = f"lacks {len(lacking)} weights" if weights.exists else "is missing, and the model predicts with it"
        yield Finding(str(path.parent), "fault", f"frozen.safetensors {lost}", _anew(record.run.path))


def _anew(folder: Path) -> str:
    return f"delete the run: rm -r {quoted(folder)}; then give the command that made it"


def _scale(run: Run) -> Iterator[Finding]:
    """Examine what says how the training frames were normalised."""
    _, error = tried(read_scale, run)
    if error is not None:
        path = run.path / "normalization.json"
        advice = "restore it, or delete it and keep the training store at its place: new clips are scored with either"
        yield fault(path, error, path, advice)


def _stage_one(run: Run, finished: Sequence[int], visit: Visit) -> Iterator[Finding]:
    """Say where the run is gone that a seed started from."""
    lost = defaultdict(list)
    for seed in finished:
        result = run.seed_result(seed)
        name = result.stage_1 if result is not None else None
        if name is not None and tried(Run(visit.workspace.runs / name).seed_result, seed)[0] is None:
            lost[name].append(str(seed))
    for name, seeds in lost.items():
        what = f"the stage-1 run {name} that {_named(seeds)} started from is not there, or not finished"
        advice = "nothing for finished seeds; further seeds train stage 1 again"
        yield Finding(str(run.path), "remark", what, advice)


def _named(seeds: Sequence[str]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"


def _environments(run: Run, seeds: Sequence[int], visit: Visit) -> Iterator[Finding]:
    """Compare versions, device and threads of every seed with those of here."""
    others = defaultdict(list)
    here = _flat(visit.here)
    for seed in seeds:
        path = run.seed_folder(seed) / "environment.json"
        if not path.parent.is_dir():
            continue
        found, error = tried(_recorded, path)
        if found is None:
            assert error is not None
            advice = "restore it from a copy if you have one: nothing but this comparison reads it"
            one = fault(path.parent, error, path, advice)
            yield one if status_of(path) is not None else replace(one, severity=REMARK)
            continue
        changed = [name for name in here if found.get(name) != here[name]]
        if changed:
            pairs = [f"{name} {found.get(name, 'unknown')[:40]} (here {here[name]})" for name in changed]
            others[", ".join(pairs)].append(str(seed))
    for pairs_text, concerned in others.items():
        advice = "nothing for what is stored; what is trained or predicted here may differ in its last digits"
        yield Finding(str(run.path), "remark", f"{_named(concerned)} trained with {pairs_text}", advice)


def _recorded(path: Path) -> dict[str, str]:
    return _flat(read_json(ordinary(path)))


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what can change a digit of a result, as words."""
    named = {name: facts.get(name) for name in ("conki", "python", "device", "threads")} | dict(facts["packages"])
    return {str(name): one_line(str(value)) for name, value in named.items()}
