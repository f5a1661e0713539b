"""Slurm, through its own commands: sbatch, squeue, scontrol, scancel."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from conki_cli.system.errors import ConkiError, SettingsError, one_line

RESERVED = (
    *("array", "chdir", "dependency", "error", "job-name", "kill-on-invalid-dep", "no-requeue", "open-mode", "output"),
    *("parsable", "requeue", "signal", "test-only", "wait", "wrap"),
)
"""Options of sbatch that `conki submit` sets itself."""
_SECONDS = 120  # sbatch tries for a while to reach a controller that does not answer


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """Read `partition=gpu,time=04:00:00`: options of sbatch without their dashes.

    A comma belongs to the value unless `key=` follows it: `partition=gpu,cpu,time=10` has two options.

    Raises:
        SettingsError: something is not key=value, is given twice, or is set by `conki submit` itself.
    """
    found: dict[str, str] = {}
    for text in texts:
        for pair in re.split(r",(?=[A-Za-z][\w-]*=)", text):
            name, equals, value = pair.partition("=")
            if not equals or not value or not value.isprintable() or not re.fullmatch(r"[a-z][a-z-]*", name):
                raise SettingsError(
                    f"'{one_line(pair)[:80]}'",
                    "give long options of sbatch, as in --slurm partition=gpu,time=04:00:00,gpus=1",
                    must="--slurm must be KEY=VALUE,KEY=VALUE",
                )
            if name in RESERVED:
                raise SettingsError(f"--slurm {name}=... is set by `conki submit` itself", advice="leave it out")
            if name in found:
                raise SettingsError(f"--slurm has {name} twice", advice="give it once")
            found[name] = value
    return found


def seconds_of(limit: str) -> int | None:
    """Return the seconds of a time limit as sbatch reads it; None if it is not one, which sbatch will say."""
    days, dash, rest = limit.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in parts) or len(parts) > 3 or (dash and not days.isdecimal()):
        return None
    units = (3600, 60, 1) if dash else {1: (60,), 2: (60, 1)}.get(len(parts), (3600, 60, 1))
    return int(days or 0) * 86400 + sum(int(part) * unit for part, unit in zip(parts, units, strict=False))


def check_installed() -> None:
    """Refuse a machine without sbatch.

    Raises:
        SettingsError: it is not on the path.
    """
    if shutil.which("sbatch") is None:
        raise SettingsError(
            "this machine has no command sbatch", advice="run this where Slurm is installed, or give --launcher local"
        )


def directives(options: Mapping[str, str]) -> list[str]:
    """Return the lines of a script that tell sbatch its options; an empty value is a flag."""
    return [f"#SBATCH --{name}" + (f"={shlex.quote(value)}" if value else "") for name, value in options.items()]


def check_script(script: str) -> None:
    """Let sbatch check a script without queueing it.

    Raises:
        SettingsError: sbatch refuses it; the message has its words.
    """
    _sbatch(["--test-only"], script)


def queue_script(path: Path, *, after: str = "") -> str:
    """Queue a script; return the id of its array.

    Args:
        path: the script.
        after: an array: each job waits for the one of the same index there, and is cancelled if that one fails.

    Raises:
        SettingsError: sbatch refuses it.
    """
    dependency = [f"--dependency=aftercorr:{after}", "--kill-on-invalid-dep=yes"] if after else []
    answer = _sbatch(["--parsable", *dependency, str(path)])
    return answer.strip().partition(";")[0]  # a cluster's name may follow


def _sbatch(words: Sequence[str], script: str | None = None) -> str:
    done = _run(["sbatch", *words], script)
    if done.returncode:
        _check_reachable()
        raise SettingsError(
            f"sbatch refuses the jobs: {_words_of(done.stderr)}",
            advice="change --slurm (`sinfo` lists the partitions)",
        )
    return done.stdout


def _check_reachable() -> None:
    """Refuse a machine that has the commands of Slurm and no cluster behind them.

    Raises:
        SettingsError: its configuration is missing, or no controller answers.
    """
    done = _run(["scontrol", "ping"])
    if done.returncode:
        said = done.stderr or done.stdout
        fatal = "\n".join(line for line in said.splitlines() if ": fatal: " in line)
        raise SettingsError(
            f"the commands of Slurm are here, but no cluster answers: {_words_of(fatal or said)}",
            advice="run this on a machine of the cluster, name its slurm.conf in SLURM_CONF, or give --launcher local",
        )


def queued() -> dict[str, str]:
    """Return the state of this user's jobs in the queue by id, such as `12_3`; empty where there is no Slurm.

    Raises:
        ConkiError: Slurm does not say.
    """
    if shutil.which("squeue") is None:
        return {}
    done = _run(["squeue", "--me", "--noheader", "--array", "--format=%F_%K|%T|%r"])
    if done.returncode:
        raise ConkiError(
            f"Slurm does not say what is in the queue: {_words_of(done.stderr)}",
            advice="check its controller with `scontrol ping`, and try again",
        )
    lines = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
    return {job: f"{state.lower()}" + (f" ({reason})" if reason != "None" else "") for job, state, reason in lines}


def this_job() -> str:
    """Return the id of the job that this process belongs to, such as `12_3`; empty outside Slurm."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID", "")


def requeue(job: str) -> None:
    """Queue a running job again, which ends it here.

    Raises:
        ConkiError: Slurm refuses.
    """
    done = _run(["scontrol", "requeue", job])
    if done.returncode:
        raise ConkiError(
            f"Slurm does not queue job {job} again: {_words_of(done.stderr)}", advice="submit the same command again"
        )


def cancel(jobs: Sequence[str]) -> None:
    """Take jobs out of the queue."""
    if jobs:
        _run(["scancel", *jobs])


def _run(words: Sequence[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError as error:
        raise ConkiError(f"this machine has no command {words[0]}", advice="check the installation of Slurm") from error
    except subprocess.TimeoutExpired as error:
        raise ConkiError(
            f"{words[0]} gave no answer for {_SECONDS} seconds", advice="check Slurm's controller with `scontrol ping`"
        ) from error


def _words_of(stderr: str) -> str:
    """Return what a command of Slurm complained about, on one line."""
    lines = [re.sub(r"^\w+: ((error|fatal): )?", "", line) for line in stderr.splitlines()]
    kept = [line for line in lines if line and not line.startswith("Try ")]
    return one_line("; ".join(dict.fromkeys(kept)))[:300] or "it gives no reason"
