"""How the training of a seed ended, as far as the files tell: finished, failed with its reason, stopped, killed."""

import re
from pathlib import Path

from conki_cli.runs.folders import Run
from conki_cli.system.errors import ConkiError, one_line
from conki_cli.system.locks import was_killed
from conki_cli.system.workspace import Workspace

_FAILURE = re.compile(r"(?:slurmstepd: )?error: (?P<reason>.+)")
_LAST_BYTES = 4096  # of a log


def ending_in_workspace(workspace: Workspace, name: str, seed: int) -> str:
    """Say how a training ended that was seen before, from what it left in the folder of runs or of trials."""
    found = [Run(folder / name) for folder in (workspace.runs, workspace.trials)]
    run = next((run for run in found if run.path.exists()), None)
    if run is None:
        is_trial = found[1].seed_lock(seed).exists()
        return "ended; a sweep keeps only its best trial" if is_trial else "ended before it had a folder"
    try:
        result = run.seed_result(seed)
    except ConkiError as error:
        return f"ended, but {one_line(error.fact)}"
    if result is not None:
        return f"finished{_mae(result.metrics)}"
    how = "killed" if was_killed(run.seed_lock(seed)) else "stopped or failed, as its own output says"
    return f"{how}; the same command continues"


def _mae(metrics: object) -> str:
    valid = metrics.get("valid") if isinstance(metrics, dict) else None
    mae = valid.get("mae") if valid else None  # null where it is undefined
    return f", validation MAE {mae:.3f}" if mae is not None else ""


def ending_in_log(log: Path) -> tuple[str, str]:
    """Return how a job ended by the last line that it wrote, "failed" or "stopped", and the reason of a failure."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _LAST_BYTES))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return "stopped", ""
    last = next((line for line in reversed(lines) if line.strip()), "")
    failure = _FAILURE.match(last)
    return ("failed", one_line(failure["reason"])) if failure is not None else ("stopped", "")
