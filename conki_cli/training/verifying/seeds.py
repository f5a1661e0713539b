"""One seed of a run: finished with all that it needs, or where its training continues."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conki_cli.runs import SeedResult
from conki_cli.runs.log import log_path, verify_log
from conki_cli.runs.verifying import ExaminedRun, verify_predictions
from conki_cli.system.errors import quoted
from conki_cli.system.findings import FAULT, OK, REMARK, UNREAD, Finding, attempt, fault, ordinary
from conki_cli.training.verifying.checkpoints import Checkpoint, Checkpoints


def verify_seed(checkpoints: Checkpoints, seed: int) -> Iterator[Finding]:
    """Verify the folder of a seed."""
    examined = checkpoints.examined
    folder = examined.run.seed_folder(seed)
    if os.path.lexists(folder) and not folder.is_dir():
        yield Finding(str(folder), FAULT, "must be a folder and is none", f"move it away; then {examined.command}")
        return
    if not folder.is_dir():
        if examined.result is not None and examined.result.state == "finished":
            what = "this seed was finished, and its folder is missing"
            yield Finding(str(folder), FAULT, what, f"restore it, or {examined.command} trains it again")
            return
        advice = f"wait for {examined.holder}" if examined.holder else f"{examined.command} trains it"
        yield Finding(str(folder), REMARK, "this seed was not started", advice)
        return
    result, error = attempt(examined.run.seed_result, seed)
    if error is not None:
        path = folder / "result.json"
        again = f"delete it: rm {quoted(path)}; then {examined.command} writes it again from its checkpoints"
        yield fault(folder, error, path, f"restore it, or {again}")
    read = checkpoints.of_seed(seed)
    if result is None and error is None:
        yield from _unfinished(examined, seed, read)
        return
    problems = [*checkpoints.verify_finished(seed, read), *verify_predictions(examined, seed)]
    if result is not None:
        problems += verify_log(examined.run, seed, result.epochs, is_over=True)
    yield from problems
    if result is not None and not problems:
        whole = "checkpoints, predictions and log as written"
        if not all(one.has_checksum for one in read.values() if one.exists):
            whole = "predictions and log as written; its checkpoints were written before there were checksums"
        yield Finding(str(folder), OK, f"finished: {_outcome(result)}; {whole}")


def _outcome(result: SeedResult) -> str:
    maes = [f"{split} MAE {mae:.3f}" for split, part in result.metrics.items() if (mae := part.get("mae")) is not None]
    return ", ".join([f"best epoch {result.best_epoch} of {result.epochs}", *maes])


# ---- an unfinished seed ----


def _unfinished(examined: ExaminedRun, seed: int, read: Mapping[str, Checkpoint]) -> Iterator[Finding]:
    subject = str(examined.run.seed_folder(seed))
    command = f"wait for {examined.holder}" if examined.holder else f"{examined.command} continues it"
    start_over = command if examined.holder else f"{examined.command} starts the seed over"
    if hindered := list(_hindrances(examined, seed, read, command)):
        yield from hindered
        return
    begun = next((read[name] for name in ("last", "previous") if read[name].is_sound), None)
    problems = [read[name].problem for name in ("last", "previous") if read[name].problem]
    if begun is None and problems:
        yield Finding(subject, FAULT, f"{'; '.join(problems)}; nothing is left to continue from", start_over)
        return
    if begun is None:
        what = "started, but without a checkpoint yet: it starts from the beginning"
        yield Finding(subject, REMARK, what, command)
        return
    if problem := read["best"].problem or _lacking_best(read["best"], begun.facts):
        yield Finding(subject, FAULT, problem, start_over)
        return
    before = [*problems, "continues from the checkpoint before it"] if begun is read["previous"] else problems
    yield Finding(subject, REMARK, "; ".join([f"unfinished, {_place(begun.facts)}", *before]), command)
    if read["frozen"].problem:
        advice = "nothing: when the seed resumes it is rewritten, with the weights that a new start would have"
        yield Finding(subject, REMARK, read["frozen"].problem, advice)
    epochs = begun.facts.get("epoch")
    if type(epochs) is int:
        over = epochs - (begun.facts.get("within") is not None)
        yield from verify_log(examined.run, seed, over, is_over=False)


def _hindrances(examined: ExaminedRun, seed: int, read: Mapping[str, Checkpoint], command: str) -> Iterator[Finding]:
    """Say why a seed cannot be continued, though nothing that it left is damaged."""
    subject = str(examined.run.seed_folder(seed))
    if unread := [one.problem for one in read.values() if one.is_unread]:
        yield Finding(subject, FAULT, "; ".join(unread), UNREAD)
        return
    in_the_way = [error for path in _files_of(examined, seed) if (error := attempt(ordinary, path)[1]) is not None]
    for error in in_the_way:
        yield Finding(subject, FAULT, str(error), f"move it away; {command}")
    newer = [read[name] for name in ("last", "previous", "frozen") if read[name].is_newer]
    if newer and not in_the_way:
        yield Finding(subject, FAULT, "; ".join(one.problem for one in newer), newer[0].advice(command))


def _lacking_best(best: Checkpoint, facts: Mapping[str, Any]) -> str:
    """Say that the best weights so far are missing, where there must be some."""
    best_mae = facts.get("best_mae")
    lacks = not best.exists and isinstance(best_mae, float) and math.isfinite(best_mae)
    return "checkpoints/best.safetensors is missing" if lacks else ""


def _files_of(examined: ExaminedRun, seed: int) -> list[Path]:
    """Return what must be files, or lack, where a seed continues."""
    names = ("last", "previous", "best")
    return [*(examined.run.checkpoint(seed, name) for name in names), log_path(examined.run, seed)]


def _place(facts: Mapping[str, Any]) -> str:
    """Say where training continues."""
    if facts.get("within") is not None:
        return f"continues in epoch {str(facts.get('epoch'))[:9]}, after step {str(facts.get('step'))[:9]}"
    return f"continues after epoch {str(facts.get('epoch'))[:9]}"
