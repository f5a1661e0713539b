"""Plans that become jobs: which waits for which, what a job reads, what is refused before anything is changed."""

import shlex
import signal
import time
from pathlib import Path

import pytest
from conftest import MakeConfig, Trained, content, equal_bits, rows_of
from process_support import SECONDS, finished, started
from typer.testing import CliRunner, Result

from conki_cli.cli import app, job
from conki_cli.config.resolving import to_toml
from conki_cli.experiments.ablations import ablation_rows
from conki_cli.experiments.background import _Background
from conki_cli.experiments.planning import make_plan
from conki_cli.experiments.submitting import Order, arrays_of, most_at_once, script_of, step_of, submit
from conki_cli.runs import Run, Runs
from conki_cli.runs.submissions import Submission, Task, submissions
from conki_cli.system.files import read_json
from conki_cli.system.locks import Holder, find_holder, locked
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.training.steps import Shelf, Step

LOCAL = Order(("finetune", "--seeds", "1..2"), "local", {}, 120, threads=1)
SLURM = Order(("finetune",), "slurm", {"partition": "gpu", "time": "4:00:00"}, 120, num_jobs=3)


def planned(workspace: Workspace, rows: object) -> list[Step]:
    with Shelf() as shelf:
        return make_plan(rows, Runs(workspace), Observer(), shelf=shelf).steps  # type: ignore[arg-type]


def submitted(workspace: Workspace, config: object, order: Order = LOCAL) -> Submission:
    with Shelf() as shelf:
        return submit(make_plan([config], Runs(workspace), Observer(), shelf=shelf), order, Observer())  # type: ignore


def test_a_stage_2_waits_for_the_job_of_its_own_stage_1(workspace: Workspace, tiny_config: MakeConfig) -> None:
    rows = ablation_rows(rows_of(tiny_config(seeds=(1, 2)), ("C4",), ("C1",)))
    steps = planned(workspace, rows)
    tasks = arrays_of(steps)
    places = [(task.stage, task.seed, task.array, task.index) for task in tasks]
    shared = [(1, 1, 0, 1), (1, 2, 0, 2), (2, 1, 1, 1), (2, 2, 1, 2), (2, 1, 2, 1), (2, 2, 2, 2)]
    assert places == [*shared, (2, 1, 0, 3), (2, 2, 0, 4)]  # w/o C1 has no stage 1
    before = {task.index: (task.run, task.seed) for task in tasks if task.array == 0}
    assert all(before[task.index] == (task.first, task.seed) for task in tasks if task.array)
    found = [most_at_once(steps, *order) for order in (("slurm", 1), ("slurm", 2), ("local", 2))]
    assert found == [8, 2 * 3, 2]  # of eight steps in three arrays


def test_a_job_reads_the_step_that_was_planned(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config = tiny_config(seeds=(1, 2))
    steps = planned(workspace, [config])
    submission = submitted(workspace, config)
    assert [step_of(submission, task) for task in submission.tasks] == steps
    assert [found.path for found in submissions(workspace)] == [submission.path]


def test_a_job_trains_one_step_to_the_bits_of_the_command(
    copied: Workspace, trained: Trained, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/x/conki_cli/cli/job.py", "/home/me/jobs/1", "0", "1"])
    (Run(copied.runs / trained.run.name).seed_folder(2) / "result.json").unlink()
    for path in Run(copied.runs / trained.run.name).seed_folder(2).rglob("*.safetensors"):
        path.unlink()
    submission = submitted(copied, trained.config)
    [task] = submission.tasks
    assert (task.stage, task.seed, task.array, task.index) == (2, 2, 0, 1)
    assert job._trained(submission.path, 0, 1) == 0
    assert task.is_finished
    found = Run(Path(task.run)).checkpoint(2, "best")
    assert equal_bits(content(found), content(trained.run.checkpoint(2, "best")))
    assert "seed 2: best epoch" in capsys.readouterr().err
    recorded = read_json(Run(Path(task.run)).seed_folder(2) / "environment.json")
    assert recorded["command"] == ["conki", *LOCAL.command]


def test_the_script_of_an_array_asks_slurm_for_a_warning_and_a_restart(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    submission = submitted(workspace, tiny_config(seeds=(1, 2)))
    lines = script_of(submission, SLURM, 1).splitlines()
    asked = {word for line in lines if line.startswith("#SBATCH") for word in shlex.split(line.removeprefix("#"))[1:]}
    assert asked >= {"--partition=gpu", "--time=4:00:00", "--array=1,2%3", "--requeue", "--signal=B:USR1@120"}
    assert shlex.split(lines[-1])[-5:] == ["-m", "conki_cli.cli.job", str(submission.path), "1", "$SLURM_ARRAY_TASK_ID"]


def conki(workspace: Workspace, *words: str) -> Result:
    return CliRunner().invoke(app, words, env={"CONKI_WORKSPACE": str(workspace.root), "COLUMNS": "120"})


def given(workspace: Workspace, config: object) -> list[str]:
    path = workspace.root / "given.toml"
    path.write_text(to_toml(config), encoding="utf-8")  # type: ignore[arg-type]
    return ["finetune", "--config", str(path)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["submit"], "found nothing"),
        (
            ["submit", "--", "evaluate", "a-run"],
            "found 'evaluate': it trains nothing that could become jobs: start `conki",
        ),
        (["submit", "--", "sweep", "--over", "x"], "found 'sweep': start `conki sweep` itself; several machines may"),
        (["submit", "--", "finetun"], "found 'finetun': name the command first, as in: conki submit --slurm"),
        (
            ["submit", "--launcher", "local", "--", "finetune", "--gpus", "2"],
            "ask for the GPU of each job with --slurm",
        ),
        (["submit", "--launcher", "local", "--dry-run", "--", "ablate", "--drop", "C4", "--nodes", "2"], "one process"),
        (["submit", "--slurm", "gpu", "--", "finetune"], "--slurm must be KEY=VALUE"),
        (["submit", "--workspace", "w", "--", "finetune"], "--workspace is an option of the command that is submitted"),
        (["submit", "--launcher", "local", "--seeds=1", "finetune"], "give it after --, behind that command, as in"),
        (["submit", "finetune", "--json"], "--json belongs to `conki submit`: give it before --"),
        (["submit", "--launcher", "local", "--slurm", "time=1", "finetune"], "leave it out with --launcher local"),
        (["submit", "--launcher", "local", "compare", "a", "b"], "nothing is trained to compare finished runs"),
        (["submit", "--slurm", "partition=cpu", "finetune"], "no command sbatch"),
    ],
)
def test_what_cannot_be_submitted_is_refused_in_one_line(
    words: list[str], message: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    done = conki(workspace, *words)
    assert (done.exit_code, len(done.stderr.splitlines()), done.stdout) == (1, 1, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not workspace.jobs.exists()


def test_a_finished_command_submits_nothing(trained: Trained) -> None:
    words = ["submit", "--launcher", "local", "--json", "--dry-run", *given(trained.workspace, trained.config)]
    done = conki(trained.workspace, *words)
    assert done.exit_code == 0, done.stderr
    assert '"submission": null' in done.stdout
    assert "nothing was submitted" in done.stderr
    assert not trained.workspace.jobs.exists()


def test_a_dry_run_shows_the_jobs_and_changes_nothing(workspace: Workspace, tiny_config: MakeConfig) -> None:
    done = conki(workspace, "submit", "--launcher", "local", "--dry-run", *given(workspace, tiny_config(seeds=(1, 2))))
    assert done.exit_code == 0, done.stderr
    assert "dry run: 4 of 4 steps to train, each a job, nothing was changed" in done.stdout
    assert not workspace.jobs.exists()
    assert not workspace.runs.exists()


def test_steps_that_wait_in_the_background_are_not_submitted_again(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config = tiny_config(seeds=(1, 2))
    first = submitted(workspace, config)
    with locked(first.lock, what="it"):
        done = conki(workspace, "submit", "--launcher", "local", *given(workspace, config))
    assert done.exit_code == 1
    assert "is trained in the background already, by process" in done.stderr
    assert [found.path for found in submissions(workspace)] == [first.path]


def test_a_step_in_the_background_of_another_machine_is_named_with_that_machine(
    workspace: Workspace, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(seeds=(1, 2))
    submitted(workspace, config)
    holder = Holder(7, host="other", is_here=False)
    monkeypatch.setattr("conki_cli.experiments.submitting.find_holder", lambda lock: holder)
    done = conki(workspace, "submit", "--launcher", "local", *given(workspace, config))
    assert "by process 7 on other: wait for it, or stop it there: kill 7" in " ".join(done.stderr.split())


# ---- with processes ----


@pytest.mark.slow
def test_a_local_submission_trains_all_steps_to_the_bits_of_the_command(workspace: Workspace, trained: Trained) -> None:
    command = ("-m", "conki_cli", "submit", "--launcher", "local", "--json", *given(workspace, trained.config))
    code, out, err = finished(*command, "--jobs", "2", space=workspace.root)
    assert (code, '"submission"' in out) == (0, True), err
    [submission] = submissions(workspace)
    wait_until_over(submission)
    said = (submission.path / "logs" / "all.log").read_text()
    assert said.count("is finished") == 4, said
    for seed in (1, 2):
        found = Run(workspace.runs / trained.run.name).checkpoint(seed, "best")
        assert equal_bits(content(found), content(trained.run.checkpoint(seed, "best")))


def wait_until_over(submission: Submission) -> None:
    until = time.monotonic() + SECONDS
    while find_holder(submission.lock) is not None:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_no_task_goes_on_alone_after_another_could_not_be_started(tmp_path: Path) -> None:
    tasks = tuple(Task(0, number, str(tmp_path / "run"), 2, number, None, "", {}, {}) for number in range(2))
    submission = Submission(tmp_path, ("finetune",), "local", tasks, num_jobs=2, threads=1)
    submission.log(tasks[1]).mkdir(parents=True)
    background = _Background(submission, Observer(), list(tasks))
    with pytest.raises(IsADirectoryError):
        background.run()
    [(first, process)] = background.running.values()
    assert (first, process.poll()) == (tasks[0], -signal.SIGTERM)


def test_a_step_whose_time_is_up_before_it_trains_is_not_started_again(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    submission = submitted(workspace, tiny_config("C1+C2", "data.external=none"))
    with started("-m", "conki_cli.cli.job", str(submission.path), "0", "1", space=workspace.root) as process:
        assert process.stderr is not None
        assert process.stderr.readline().endswith("restart 0\n")
        process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("error: the time was up before this job had trained a single step: submit")


@pytest.mark.slow
def test_a_step_whose_time_is_up_saves_and_is_started_again(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config = tiny_config("C1+C2", "data.external=none", "optimizer.num_epochs=60")
    submission = submitted(workspace, config)
    with started("-m", "conki_cli.cli.job", str(submission.path), "0", "1", space=workspace.root) as process:
        until = time.monotonic() + SECONDS
        while not Run(Path(submission.tasks[0].run)).checkpoint(1, "last").exists():
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err.splitlines()[-1]) == (75, "the time is nearly up: saved, to be continued")
    code, _, err = finished("-m", "conki_cli.cli.job", str(submission.path), "0", "1", space=workspace.root)
    assert (code, " resumes " in err, submission.tasks[0].is_finished) == (0, True, True)
