"""`conki plot` as its user meets it: where the file goes, what is said, what is refused."""

import json
from pathlib import Path

import pytest
from conftest import Trained
from typer.testing import CliRunner, Result

from conki_cli.cli import app


def plot(trained: Trained, line: str) -> Result:
    env = {"CONKI_WORKSPACE": str(trained.workspace.root), "COLUMNS": "80"}
    return CliRunner().invoke(
        app, ["plot", *line.format(run=trained.run.name, first=trained.first.name).split()], env=env
    )


def test_without_out_the_figure_goes_into_the_workspace_under_the_name_of_its_run(trained: Trained) -> None:
    place = trained.workspace.root / "figures" / f"confusion-{trained.run.name}.svg"
    try:
        done = plot(trained, "{run} --kind confusion")
        assert done.exit_code == 0, done.stderr
        assert place.read_bytes().startswith(b"<svg ")
        assert f"figure written to {place}" in done.stderr.replace("\n", "")
        assert "Confusion of classes: ConKI, tiny, test, n = 6, seeds 1, 2" in " ".join(done.stdout.split())
    finally:
        place.unlink()
        place.parent.rmdir()


def test_json_says_what_is_drawn_and_where(trained: Trained, tmp_path: Path) -> None:
    done = plot(trained, f"{{run}} --kind pairs --clips 2 --width page --out {tmp_path}/a.pdf --json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (found["kind"], found["width_mm"], found["runs"]) == ("pairs", 160, [trained.run.name])
    assert Path(found["file"]).read_bytes().startswith(b"%PDF-")
    assert len(found["numbers"]["scores"]) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{run} --kind curve", "unknown kind of figure 'curve': did you mean curves?"),
        ("{run} --kind curves --out a.gif", "a figure is written as .svg, .pdf or .png, found 'a.gif'"),
        ("{run} --kind curves --out a", "found 'a'"),
        ("{run} --kind curves --width narrow", "--width takes column, page or a number of millimetres"),
        ("{run} --kind curves --width 3", "50 to 400 millimetres, found 3"),
        ("{run} --kind curves --intervals -2,1", "--intervals is for tsne and pairs"),
        ("{run} --kind confusion --clips 3", "--clips is for pairs and tsne"),
        ("{run} --kind pairs --seed 1", "--seed is for tsne"),
        ("{run} --kind pairs --intervals -2", "--intervals takes two integers"),
        ("{run} --kind pairs --clips 9", "pairs needs 2 to 8 clips, found 9"),
        ("{run} {first} --kind curves", "takes 1 run, found 2"),
        ("{first} --kind tsne", "is a stage-1 run"),
        ("nothing --kind curves", "no run 'nothing'"),
        ("{run} --kind curves --out /dev/null/a.svg", "cannot write"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(line: str, said: str, trained: Trained) -> None:
    done = plot(trained, line)
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not done.stdout
    assert not (trained.workspace.root / "figures").exists()
