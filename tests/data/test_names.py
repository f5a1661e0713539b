"""A name means what the workspace has of that name, whatever lies in the current folder; a path has a separator."""

import shutil
from pathlib import Path

import pytest
from conftest import Trained
from typer.testing import CliRunner

from conki_cli.cli import app
from conki_cli.cli.program import clips_path, store_path
from conki_cli.data.sources import find_source
from conki_cli.runs import Runs
from conki_cli.system.errors import EncoderError, RunError, SourceError, StoreError
from conki_cli.system.workspace import Workspace, is_path
from conki_cli.text.encoders import encoder_identity


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def said(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


@pytest.mark.parametrize("word", ["./mosi", "a/b", "/a", ".", "..", "mosi/"])
def test_a_separator_makes_a_path(word: str) -> None:
    assert is_path(word)
    assert not is_path("mosi.v2-x_1")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
@pytest.mark.parametrize("command", ["inspect {store}", "inspect {store} --compare {store}", "doctor {store}"])
def test_what_is_called_like_a_data_set_here_does_not_hide_its_store(
    here: Path, trained: Trained, make: object, command: str
) -> None:
    make(here / "tiny")  # type: ignore[operator]
    code, output = said(*command.format(store="tiny").split(), "--workspace", str(trained.workspace.root))
    assert code == 0, output


def test_what_is_called_like_a_store_or_run_here_hides_neither_from_models_and_evaluate(
    here: Path, trained: Trained
) -> None:
    (here / "tiny").mkdir()
    (here / trained.run.name).mkdir()
    (here / trained.run.name / "result.json").write_text("{}")
    space = ("--workspace", str(trained.workspace.root))
    assert (
        said("models", "--model", "conki", "--store", "tiny", "--encoder", trained.config.model.text_encoder, *space)[0]
        == 0
    )
    assert said("evaluate", trained.run.name, *space)[0] == 0
    assert said("doctor", trained.run.name, *space)[0] == 0


def test_what_is_called_like_a_store_here_does_not_hide_it_from_predict(here: Path, trained: Trained) -> None:
    (here / "tiny").mkdir()
    code, output = said("predict", trained.run.name, "tiny", "--workspace", str(trained.workspace.root))
    assert code == 0, output


def test_a_store_is_given_by_name_or_path_and_a_file_without_either_says_how(here: Path, stores: Path) -> None:
    for name in ("own", "own.h5"):
        shutil.copy(stores / "tiny.h5", here / name)
    assert store_path("own.h5", here) == Path("own.h5")
    assert store_path("./own", here) == Path("own")
    assert store_path("other", here) == here / "features" / "other.h5"
    with pytest.raises(StoreError, match=r"write ./own for the file in the current folder"):
        store_path("own", here)


def test_new_clips_are_given_by_name_or_path_and_a_folder_without_either_says_how(here: Path) -> None:
    (here / "tiny").mkdir()
    with pytest.raises(StoreError, match=r"write \./tiny for the folder"):
        clips_path("tiny", here)
    for word in ("clips.pkl", "./tiny", "clips.h5"):
        assert clips_path(word, here) == Path(word)
    (here / "features").mkdir()
    (here / "features" / "tiny.h5").touch()
    assert clips_path("tiny", here) == here / "features" / "tiny.h5"


def test_a_run_is_given_by_name_or_path_and_a_folder_without_either_says_how(here: Path, trained: Trained) -> None:
    shutil.copytree(trained.run.path, here / "mine")
    assert Runs(trained.workspace).find("./mine").path == Path("mine")
    assert Runs(trained.workspace).find(str(here / "mine")).path == here / "mine"
    with pytest.raises(RunError, match=r"there is no run 'mine' below .*; ./mine means the one in the current folder"):
        Runs(trained.workspace).find("mine")
    with pytest.raises(RunError, match=r"a run's folder has a result.json"):
        Runs(trained.workspace).find(f"./{trained.run.name}")


def test_a_run_named_here_by_a_path_is_not_that_of_the_workspace(here: Path, trained: Trained) -> None:
    shutil.copytree(trained.run.path, here / trained.run.name)
    assert Runs(trained.workspace).find(f"./{trained.run.name}").path == Path(trained.run.name)
    assert Runs(trained.workspace).find(trained.run.name).path == trained.run.path


def test_a_source_is_always_a_path(here: Path) -> None:
    (here / "data" / "MOSI").mkdir(parents=True)
    (here / "data" / "MOSI" / "label.csv").write_text("x")
    (here / "mosi").mkdir()
    (here / "mosi" / "meta.csv").write_text("x")
    assert find_source("mosi", here, Path("mosi")) == Path("mosi/meta.csv")
    assert find_source("mosi", here, None) == here / "data" / "MOSI" / "label.csv"
    with pytest.raises(SourceError, match="there is no file mosei: check --source"):
        find_source("mosi", here, Path("mosei"))


def test_an_encoder_is_a_folder_here_only_if_it_holds_one(here: Path, encoder: Path) -> None:
    assert encoder_identity("bert-base-uncased") == "bert-base-uncased"
    (here / "bert-base-uncased").mkdir()
    assert encoder_identity("bert-base-uncased") == "bert-base-uncased"  # the hub's, as without that folder
    with pytest.raises(EncoderError, match=r"must hold config.json"):
        encoder_identity("./bert-base-uncased")
    shutil.copytree(encoder, here / "bert-base-uncased", dirs_exist_ok=True)
    assert encoder_identity("bert-base-uncased") == encoder_identity(str(encoder))


def test_a_file_called_like_an_encoder_does_not_hide_it(here: Path) -> None:
    (here / "bert-base-uncased").touch()
    assert encoder_identity("bert-base-uncased") == "bert-base-uncased"
    with pytest.raises(EncoderError, match="is a file"):
        encoder_identity("./bert-base-uncased")


def test_the_built_in_encoder_is_meant_by_its_name(here: Path) -> None:
    (here / "demo").mkdir()
    assert Workspace(here / "space").encoder("demo") == str(here / "space" / "encoders" / "demo")
