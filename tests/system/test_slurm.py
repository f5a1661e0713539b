"""What is said to Slurm and understood of its answers; a real Slurm is in tests/experiments/test_cluster.py."""

from pathlib import Path

import pytest

from conki_cli.system import slurm
from conki_cli.system.errors import SettingsError


def test_options_are_those_of_sbatch_and_a_comma_may_belong_to_a_value() -> None:
    found = slurm.parse_options(["partition=gpu,cpu,time=1-02:00:00", "gpus=1"])
    assert found == {"partition": "gpu,cpu", "time": "1-02:00:00", "gpus": "1"}


@pytest.mark.parametrize("text", ["partition", "=gpu", "time=", "Time=1", "gpus=1\n#SBATCH --uid=0", "", "a b=1"])
def test_what_is_no_option_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--slurm must be KEY=VALUE,KEY=VALUE, found"):
        slurm.parse_options([text])


def test_options_given_twice_or_set_by_the_program_are_refused() -> None:
    with pytest.raises(SettingsError, match="--slurm has time twice"):
        slurm.parse_options(["time=1", "time=2"])
    with pytest.raises(SettingsError, match=r"--slurm array=\.\.\. is set by `conki submit` itself"):
        slurm.parse_options(["array=1-9"])


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("90", 5400), ("1:30", 90), ("04:00:00", 14400), ("1-0", 86400), ("1-2:30", 95400), ("2-0:0:5", 172805)],
)
def test_time_limits_are_read_as_slurm_reads_them(limit: str, seconds: int) -> None:
    assert slurm.seconds_of(limit) == seconds


@pytest.mark.parametrize("limit", ["", "UNLIMITED", "1:2:3:4", "-5", "x-1"])
def test_what_is_no_time_limit_is_left_to_sbatch(limit: str) -> None:
    assert slurm.seconds_of(limit) is None


def test_the_lines_of_a_script_quote_what_a_shell_would_split() -> None:
    assert slurm.directives({"requeue": "", "output": "/a b/%a"}) == ["#SBATCH --requeue", "#SBATCH --output='/a b/%a'"]


def test_a_job_knows_its_place_in_its_array(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert slurm.this_job() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    assert slurm.this_job() == "15"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm.this_job() == "12_3"


def test_without_slurm_nothing_is_queued_and_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.queued() == {}
    with pytest.raises(SettingsError, match=r"no command sbatch: .* or give --launcher local"):
        slurm.check_installed()


def test_the_words_of_a_refusal_are_on_one_line() -> None:
    said = "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed\nTry --help\n"
    assert slurm._words_of(said) == "invalid partition specified: nope; Batch job submission failed"


def test_commands_of_slurm_without_a_cluster_are_not_blamed_on_the_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("sbatch", "scontrol"):  # what Slurm's own say where no slurm.conf is
        lines = [f"{name}: error: fetch_config: DNS SRV lookup failed", f"{name}: fatal: Could not establish a source"]
        (tmp_path / name).write_text("#!/bin/sh\n" + "".join(f"echo '{line}' >&2\n" for line in lines) + "exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError) as refused:
        slurm.check_script("#!/bin/bash\n#SBATCH --time=1\ntrue\n")
    assert str(refused.value) == (
        "the commands of Slurm are here, but no cluster answers: Could not establish a source: run this on a machine "
        "of the cluster, name its slurm.conf in SLURM_CONF, or give --launcher local"
    )
