"""One seed of a run: checkpoints, predictions, the log."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conki_cli.config.sections import RunConfig
from conki_cli.data.store.records import evenly
from conki_cli.doctor.findings import FAULT, REMARK, UNREAD, Finding, Visit, fact_of, fault, is_unread, ordinary, tried
from conki_cli.doctor.stores import known_store
from conki_cli.doctor.weights import Checkpoint, Key, read_checkpoint
from conki_cli.runs import Run, RunRecord, SeedResult, read_predictions, stored_predictions
from conki_cli.system.errors import Kind, RunError, quoted, reason_of

_NEEDED_ALONE = "a finished seed needs `best` and `frozen` alone"


@dataclass(frozen=True)
class Record:
    """What is known of a run while its seeds are examined; None: it cannot be read."""

    run: Run
    config: RunConfig | None
    result: RunRecord | None
    command: str
    """What trains the seeds that are not finished."""
    holder: str
    """The process that is at work on the run; empty: none."""
    has_encoder: bool
    """Whether the folder `encoder` is sound, so that networks can be built from it."""
    known: dict[Key, Checkpoint] = field(default_factory=dict)
    needed: dict[str, frozenset[str]] = field(default_factory=dict)
    """Weights that a finished seed has, by file; filled with the first seed."""

    @property
    def is_first_stage(self) -> bool:
        """Say whether it is a run of stage 1."""
        return self.result is not None and self.result.stage == "pretrain"

    def again(self, seed: int) -> str:
        """Say how to train a seed once more."""
        return f"delete that seed: rm -r {quoted(self.run.seed_folder(seed))}; then {self.command}"


def seed_findings(record: Record, seed: int, visit: Visit) -> Iterator[Finding]:
    """Examine the folder of a seed."""
    folder = record.run.seed_folder(seed)
    if os.path.lexists(folder) and not folder.is_dir():
        yield Finding(str(folder), "fault", "must be a folder and is none", f"move it away; then {record.command}")
        return
    if not folder.is_dir():
        yield Finding(
            str(folder),
            "remark",
            "this seed was not started",
            f"wait for {record.holder}" if record.holder else f"{record.command} trains it",
        )
        return
    found, error = tried(record.run.seed_result, seed)
    if error is not None:
        advice = f"restore it, or {record.again(seed)}"
        yield fault(folder, error, folder / "result.json", advice)
    names = ("best", "frozen", "last", "previous")
    read = {name: read_checkpoint(record.run.checkpoint(seed, name), visit, record.known) for name in names}
    if found is None and error is None:
        yield from _unfinished(record, seed, read)
        return
    problems = [*_checkpoints(record, seed, read), *_predictions(record, seed, visit)]
    if found is not None:
        problems += _log(record, seed, found.epochs, is_over=True)
    yield from problems
    if found is not None and not problems:
        whole = "checkpoints, predictions and log as written"
        if not all(one.has_checksum for one in read.values() if one.exists):
            whole = "predictions and log as written; its checkpoints were written before there were checksums"
        yield Finding(str(folder), "ok", f"finished: {_outcome(found)}; {whole}")


def _outcome(found: SeedResult) -> str:
    maes = [f"{split} MAE {mae:.3f}" for split, part in found.metrics.items() if (mae := part.get("mae")) is not None]
    return ", ".join([f"best epoch {found.best_epoch} of {found.epochs}", *maes])


# ---- a finished seed ----


def _checkpoints(record: Record, seed: int, read: Mapping[str, Checkpoint]) -> Iterator[Finding]:
    subject = str(record.run.seed_folder(seed))
    for name in ("best", "frozen"):
        if read[name].problem:
            yield Finding(subject, "fault", read[name].problem, read[name].advice(record.again(seed)))
    if read["best"].is_sound and (other := _of_another(record, seed, read["best"])):
        yield Finding(subject, "fault", f"checkpoints/best.safetensors {other}", f"restore it, or {record.again(seed)}")
    if not read["best"].exists:
        yield Finding(subject, "fault", "checkpoints/best.safetensors is missing", record.again(seed))
    for name in ("last", "previous"):
        if read[name].problem:
            advice = f"delete it: rm {quoted(read[name].path)}; {_NEEDED_ALONE}"
            yield Finding(subject, "fault", read[name].problem, read[name].advice(advice))
    if not read["last"].exists:
        yield Finding(subject, "remark", "checkpoints/last.safetensors is missing", f"nothing: {_NEEDED_ALONE}")
    if record.config is not None and record.has_encoder and read["best"].is_sound:
        yield from _completeness(record, seed, record.config, read)


def _of_another(record: Record, seed: int, best: Checkpoint) -> str:
    from conki_cli.training.checkpoint import of_another

    return tried(of_another, record.run, seed, best.facts)[0] or ""


def _completeness(record: Record, seed: int, config: RunConfig, read: Mapping[str, Checkpoint]) -> Iterator[Finding]:
    """Compare the weights in the checkpoints with those that the network has."""
    subject = str(record.run.seed_folder(seed))
    if not record.needed:
        from conki_cli.training.verifying import needed_weights

        needed, error = tried(needed_weights, record.run, config, read["best"].facts)
        if needed is None:
            what = f"its network cannot be built from best.safetensors ({reason_of(error) if error else ''})"
            yield Finding(subject, "fault", what, record.again(seed))
            return
        record.needed.update(needed)
    for name in ("best", "frozen"):
        lacking = sorted(record.needed[name] - read[name].names)
        if lacking and not read[name].problem:
            lost = f"lacks {len(lacking)} weights, such as {lacking[0]}" if read[name].exists else "is missing"
            yield Finding(subject, "fault", f"checkpoints/{name}.safetensors {lost}", record.again(seed))


def _predictions(record: Record, seed: int, visit: Visit) -> Iterator[Finding]:
    needed = ("valid",) if record.is_first_stage else ("valid", "test")
    for split in (*needed, "train"):
        path = record.run.predictions_path(seed, split)
        mend, severity = record.again(seed), FAULT
        if not record.is_first_stage:
            severity = REMARK
            mend = f"{visit.command(f'evaluate {name_of(record.run, visit)} --split {split}')} predicts it again"
        if not path.exists():
            if split in needed:
                what = f"predictions/{split}.csv is missing"
                yield Finding(str(path.parents[1]), severity, what, mend)
            continue
        _, error = tried(_read_predictions, record, seed, split, visit)
        if error is not None:
            advice = mend if record.is_first_stage else f"delete it: rm {quoted(path)}; {mend}"
            is_contradicted = isinstance(error, RunError) and error.kind is Kind.CONTRADICTED
            if not record.is_first_stage and is_contradicted:
                advice += f"; if that is refused too, restore the seed's result.json, or {record.again(seed)}"
            yield fault(path.parents[1], error, path, advice)


def _read_predictions(record: Record, seed: int, split: str, visit: Visit) -> None:
    """Read predictions, and compare them with results and clips where those can be read."""
    path = record.run.predictions_path(seed, split)
    found, (result, _) = read_predictions(path), tried(record.run.seed_result, seed)
    count = result.metrics.get(split, {}).get("n", len(found.ids)) if result else len(found.ids)
    if count != len(found.ids):
        raise RunError(f"{path} must hold {count} clips but holds {len(found.ids)}")
    if result is not None and record.result is not None:
        stored_predictions(record.run, split, [seed])
    dataset, data = (record.result.dataset, record.result.data) if record.result is not None else ("", {})
    known = known_store(visit.workspace.store(dataset), visit) if dataset in data else None
    if known is None or known.content_id != data[dataset]:
        return
    ids, limit = known.ids.get(split, found.ids), record.config.data.limit if record.config is not None else 0
    if 0 < limit < len(ids):
        ids = [ids[i] for i in evenly(limit, len(ids))]
    if ids != found.ids:
        raise RunError(f"{path} must name the clips of the store {dataset} but names others")


def predictions_of_all(record: Record, seeds: Sequence[int]) -> Iterator[Finding]:
    """Compare the predictions of seeds with each other, which must name the same clips, where each alone is sound."""
    for split in ("train", "valid", "test"):
        error = tried(stored_predictions, record.run, split, seeds)[1] if len(seeds) > 1 else None
        if error is not None:
            alone = [seed for seed in seeds if tried(stored_predictions, record.run, split, [seed])[1] is None]
            error = tried(stored_predictions, record.run, split, alone)[1] if len(alone) > 1 else None
        if error is not None:
            what = fact_of(error, record.run.path)
            mend = "delete the seed's folder; then " if record.is_first_stage else "delete the file that differs; "
            last = record.command if record.is_first_stage else "`conki evaluate` predicts it again"
            advice = UNREAD if is_unread(error, record.run.path) else mend + last
            yield Finding(str(record.run.path), "fault", what, advice)


def name_of(run: Run, visit: Visit) -> str:
    """Return how a command of this workspace names a run."""
    return quoted(run.name if run.path.parent == visit.workspace.runs else run.path)


# ---- an unfinished seed ----


def _unfinished(record: Record, seed: int, read: Mapping[str, Checkpoint]) -> Iterator[Finding]:
    subject = str(record.run.seed_folder(seed))
    rest = "" if record.holder else " continues it"
    command = f"wait for {record.holder}" if record.holder else record.command
    if unread := [one.problem for one in read.values() if one.is_unread]:
        yield Finding(subject, "fault", "; ".join(unread), UNREAD)
        return
    begun = next((read[name] for name in ("last", "previous") if read[name].is_sound), None)
    problems = [read[name].problem for name in ("last", "previous") if read[name].problem]
    in_the_way = [error for path in _files_of(record, seed) if (error := tried(ordinary, path)[1]) is not None]
    if in_the_way:
        for error in in_the_way:
            yield Finding(subject, "fault", str(error), f"move it away; {command}{rest}")
        return
    if newer := [read[name].problem for name in ("last", "previous") if read[name].is_newer]:
        yield Finding(subject, "fault", "; ".join(newer), "install the version that wrote it, or a newer one")
        return
    if begun is None and problems:
        what = f"{'; '.join(problems)}; nothing is left to continue from"
        yield Finding(subject, "fault", what, command if record.holder else f"{command} starts the seed over")
        return
    if begun is None:
        what = "started, but without a checkpoint yet: it starts from the beginning"
        yield Finding(subject, "remark", what, command + rest)
        return
    facts = begun.facts
    best_mae = facts.get("best_mae")
    lacks_best = not read["best"].exists and isinstance(best_mae, float) and math.isfinite(best_mae)
    if read["best"].problem or lacks_best:
        what = read["best"].problem or "checkpoints/best.safetensors is missing"
        advice = command if record.holder else f"{command} starts the seed over"
        yield Finding(subject, "fault", what, advice)
        return
    before = [*problems, "continues from the checkpoint before it"] if begun is read["previous"] else problems
    yield Finding(subject, "remark", "; ".join([f"unfinished, {_place(facts)}", *before]), command + rest)
    if read["frozen"].problem:
        yield Finding(subject, "remark", read["frozen"].problem, "nothing: it is rewritten when the seed resumes")
    epochs = facts.get("epoch")
    if type(epochs) is int:
        yield from _log(record, seed, epochs - (facts.get("within") is not None), is_over=False)


def _files_of(record: Record, seed: int) -> list[Path]:
    """Return what must be files, or lack, where a seed continues."""
    checkpoints = [record.run.checkpoint(seed, name) for name in ("last", "previous", "best")]
    return [*checkpoints, record.run.seed_folder(seed) / "metrics.jsonl"]


def _place(facts: Mapping[str, Any]) -> str:
    """Say where training continues."""
    if facts.get("within") is not None:
        return f"continues in epoch {str(facts.get('epoch'))[:9]}, after step {str(facts.get('step'))[:9]}"
    return f"continues after epoch {str(facts.get('epoch'))[:9]}"


# ---- the log ----


def _log(record: Record, seed: int, epochs: object, *, is_over: bool) -> list[Finding]:
    """Compare the lines of metrics.jsonl with the epochs that were trained."""
    if type(epochs) is not int or not 0 <= epochs < 10**6:
        return []
    log, advice = (
        record.run.seed_folder(seed) / "metrics.jsonl",
        "nothing: what was learnt and measured is not affected",
    )
    kept, error = tried(_whole_lines, log, epochs)
    problems = [fact_of(error, log)] if error is not None else []
    if kept is not None:
        lost = [str(number) for number in range(1, epochs + 1) if number not in kept]
        problems += [f"metrics.jsonl lacks epochs {', '.join(lost[:20])}{', ...' * (len(lost) > 20)}"] if lost else []
        if is_over and not lost and sum(map(bool, log.read_bytes().split(b"\n"))) != epochs:
            problems.append("metrics.jsonl has lines that are no epochs of this seed")
    return [Finding(str(log.parent), "remark", problem, advice) for problem in problems]


def _whole_lines(log: Path, epochs: int) -> dict[int, str]:
    from conki_cli.training.checkpoint import whole_lines

    return whole_lines(ordinary(log), epochs)
