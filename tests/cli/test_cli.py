"""Every command as its users meet it: wrong input, damaged runs, JSON, a day's work, tables that fit."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Trained, resealed
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from conki_cli.cli import app

ROWS = "a,1,good film,1.0,x,{0}\na,2,bad plot,-2,x,{0}\nb,1,fair,0.5,x,{0}\nb,2,poor film,-1,x,{0}\n"
SPLITS = ("train", "valid", "test")
LABELS = "video_id,clip_id,text,label,annotation,mode\n"
QUICK = ["--epochs", "1", "--set", "pretraining.num_epochs=1", "--device", "cpu"]


def conki(space: Path, *arguments: str, columns: int = 80) -> Result:
    """Run a command in this process."""
    env = {"CONKI_WORKSPACE": str(space), "COLUMNS": str(columns), "FORCE_COLOR": None}
    return CliRunner().invoke(app, arguments, env=env)


def answer(result: Result) -> dict[str, Any]:
    """Return the one JSON object on stdout; nan and infinities are no JSON."""
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout, parse_constant=pytest.fail)
    return found


def complaint(result: Result) -> str:
    """Return the one line on stderr of a command that was refused and showed nothing."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert [line.startswith("error: ") for line in lines] == [True], result.stderr
    return lines[0]


def snapshot(folder: Path) -> dict[Path, int]:
    """Return when everything below a folder changed last; locks stay behind on purpose."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def labels(path: Path, rows: str = "") -> Path:
    """Write a label file; without rows of its own, one with four clips per split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [ROWS.format(mode).replace("a,", f"{mode}a,").replace("b,", f"{mode}b,") for mode in SPLITS]
    path.write_text(LABELS + (rows or "".join(parts)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory, trained: Trained, encoder: Path) -> Path:
    """A workspace with ConKI on `tiny`, a run `words` of texts alone, and a store `words`; only to be read."""
    root = tmp_path_factory.mktemp("user") / "space"
    shutil.copytree(trained.workspace.root, root, copy_function=shutil.copy2)
    source = str(labels(root / "words.csv"))
    made = conki(root, "prepare", "--dataset", "words", "--source", source, "--score-range", "-3..3")
    assert made.exit_code == 0, made.stderr
    run = conki(root, "finetune", *train("tiny", "none", encoder), "--drop", "V+A", "--name", "words", *QUICK)
    assert run.exit_code == 0, run.stderr
    return root


@pytest.fixture
def own(space: Path, tmp_path: Path) -> Path:
    """A copy of the workspace, to be changed."""
    return Path(shutil.copytree(space, tmp_path / "own", copy_function=shutil.copy2))


def train(dataset: str, external: str, encoder: Path) -> list[str]:
    return ["--dataset", dataset, "--external", external, "--encoder", str(encoder)]


@pytest.fixture(scope="session")
def bad(tmp_path_factory: pytest.TempPathFactory, stores: Path) -> Path:
    """A folder of files that are not what they seem."""
    folder = tmp_path_factory.mktemp("bad")
    whole = (stores / "tiny.h5").read_bytes()
    contents = {
        "text.h5": b"text",
        "empty": b"",
        "cut.h5": whole[:3000],
        "newer.h5": whole,
        "heap.h5": whole.replace(b"GCOL", b"gcol"),
        "open.toml": b"[loss\n",
        "binary.toml": b"\x89HDF",
        "unknown.toml": b"[loss]\ntemprature = 1\n",
        "flat.toml": b"temperature = 1\n",
        "columns.csv": b"id,sentence\n1,good\n",
        "header.csv": b"id,text\n",
        "latin.csv": b"text\nsch\xf6n\n",
        "nul.csv": b"text\ngo\0od\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with resealed(folder / "newer.h5") as store:
        store.attrs["schema_version"] = 9
    with h5py.File(folder / "foreign.h5", "w"):
        pass
    whole_file = labels(folder / "labels.csv").read_text(encoding="utf-8").removeprefix(LABELS)
    labels(folder / "range.csv", whole_file.replace("-2", "-7"))
    labels(folder / "blank.csv", whole_file.replace("traina,1,good film", "traina,1,"))
    with h5py.File(folder / "audio.csd", "w") as file:
        file["COVAREP/data/v/features"] = [[1.0]]
    labels(folder / "split.csv", ROWS.format("train"))
    labels(folder / "twice.csv", whole_file + ROWS.format("train").replace("a,1,good", "traina,1,well"))
    labels(folder / "number.csv", "a,1,good,much,x,train\n")
    labels(folder / "odd.csv", "a\x1b[2J,1,good,1,x,tr\x1b[2Jain\n")
    return folder


# --- wrong input: one helpful line, nothing written ------------------------------------------------------------

TRAIN = "finetune --dataset tiny --external tiny-external --encoder {encoder} --set model.dropout=0.4"
MINE = "prepare --dataset mine --score-range -3..3 --out {bad}/new.h5 --source {bad}/"
CONFIG = "finetune --dataset tiny --external none --config {bad}/"

WRONG = {
    # models
    "finetune --model mag-brt": "unknown model 'mag-brt': did you mean mag-bert?",
    "models --model Self-MM": "unknown model 'Self-MM': did you mean self-mm?",
    "finetune --model tfn --recipe released": "setting run.recipe is read by conki alone",
    "finetune --model tfn --set loss.contrast_weight=0.1": "loss.contrast_weight is read by conki alone",
    "finetune --model tfn --set tfn.text_hidden=99999999999": "must be at most 65536",
    # prepare
    "prepare --dataset mosi": "looked in {space}/data/MOSI for Processed/unaligned_50.pkl",
    "prepare --dataset new": "give the range of its scores",
    "prepare --dataset ../new --score-range -3..3": "a data set's name must be letters",
    "prepare --dataset new --score-range 3..1": "must be two numbers, the lower first",
    "prepare --dataset mosi --score-range -1..1": "mosi has scores from -3 to 3",
    "prepare --dataset mosi --source {bad}/nothing": "there is no file",
    "prepare --dataset mosi --source {bad}/empty": "is empty",
    "prepare --dataset mosi --source {bad}/newer.h5": "valid, which is not a supported format",
    "prepare --dataset demo --source x": "is generated",
    "prepare --dataset demo --out {bad}": "it is a folder: name a file in it",
    "prepare --dataset demo --out {bad}/empty/x.h5": "a part of the path is a file",
    "prepare --dataset demo --out {bad}/header.csv": "is not overwritten",
    "prepare --dataset demo --workspace {bad}/empty/x": "a part of the path is a file",
    f"{MINE}range.csv": "scores must be numbers from -3 to 3, 'traina$_$2' has -7",
    f"{MINE}split.csv": "the split 'valid' must have at least one clip",
    f"{MINE}twice.csv": "ids must be unique, 'traina$_$1' occurs twice",
    f"{MINE}number.csv": "label must be a number, found 'much'",
    f"{MINE}odd.csv": "mode must be train, valid or test",
    f"{MINE}blank.csv --strict": "--strict allows no warning, found 2: 1 clip with an empty text",
    f"{MINE}audio.csd --align words": "must hold words for --align words",
    f"{MINE}columns.csv": "must have the columns video_id",
    # inspect
    "inspect nothing": "there is no feature store {space}/features/nothing.h5",
    "inspect words --features --clip x": "give one of --features, --clip and --compare",
    "inspect words --clip x --compare words": "give one of --features, --clip and --compare",
    "inspect {bad}": "must be a feature store but is a folder: move it away",
    "inspect {bad}/text.h5": "must be a conki feature store (HDF5) but is not",
    "inspect {bad}/empty": "must be a conki feature store (HDF5) but is not",
    "inspect {bad}/cut.h5": "is damaged",
    "inspect {bad}/newer.h5": "has store schema 9, this conki reads 1",
    "inspect {bad}/heap.h5": "is damaged (",
    "inspect {bad}/foreign.h5": "is HDF5 but not a conki feature store",
    # settings of a run
    f"{TRAIN} --seed 1 --seeds 1..2": "give --seed or --seeds, not both",
    f"{TRAIN} --seeds 2..1": "seeds are written 3, 1..5 or 1,4,9; found '2..1'",
    f"{TRAIN} --seeds 1,1": "seeds must be different whole numbers",
    f"{TRAIN} --seed -1": "seeds must lie between 0 and",
    f"{TRAIN} --seeds 1..99999999999": "seeds are written",
    f"{TRAIN} --epochs 0": "optimizer.num_epochs must be at least 1, found 0",
    f"{TRAIN} --drop C9": "unknown switch 'C9': known are C1",
    f"{TRAIN} --drop C2+C3": "there is no representation to fuse",
    f"{TRAIN} --drop T+V --drop-modality audio": "there is no modality",
    f"{TRAIN} --drop-modality smell": "--drop-modality takes text, vision, audio; found 'smell'",
    f"{TRAIN} --external tiny": "must differ from the target",
    f"{TRAIN} --set loss.temprature=1": "did you mean loss.temperature?",
    f"{TRAIN} --set loss": "--set takes section.key=value",
    f"{TRAIN} --set optimizer.batch_size=many": "optimizer.batch_size must be a whole number, found 'many'",
    f"{TRAIN} --set loss.temperature=nan": "must be a finite number",
    f"{TRAIN} --name ../x": "a run name must consist of letters",
    f"{TRAIN} --name words": "run words exists with other settings",
    f"{TRAIN} --encoder {{bad}}": "a text encoder's folder must hold",
    f"{TRAIN} --encoder {{bad}}/nothing": "no folder",
    f"{TRAIN} --encoder {{bad}}/empty": "is a file: pass the folder that holds it",
    f"{TRAIN} --external words": "has vision but the external store {space}/features/words.h5 has none",
    f"{TRAIN} --external nothing": "make it with `conki prepare --dataset nothing`",
    f"{TRAIN} --dataset ../features/tiny": "a data set's name must be letters",
    f"{CONFIG}nothing": "cannot read the configuration",
    f"{CONFIG}open.toml": "must be TOML but is not",
    f"{CONFIG}binary.toml": "must be TOML but is not",
    f"{CONFIG}unknown.toml": "unknown setting 'loss.temprature': did you mean loss.temperature?",
    f"{CONFIG}flat.toml": "stands outside a section",
    "pretrain --dataset tiny --external none": "has no stage 1",
    "pretrain --dataset tiny --external tiny-external --drop C1": "has no stage 1",
    "demo --seeds few": "seeds are written",
    # evaluate and ablate: what cannot be written or trained is refused before hours of work
    "evaluate nothing": "there is no run 'nothing' below {space}/runs: `conki runs` lists those that exist",
    "evaluate ../space": "no run '../space'",
    "evaluate words --export {bad}/table.pdf": "a table must be exported as .md, .csv, .tex",
    "evaluate words --export {bad}/empty/table.md": "a part of the path is a file",
    "evaluate {first}": "is a stage-1 run, which predicts only validation clips: give --split valid",
    "evaluate {run} --without sound": "--without takes modalities of the run (text, vision, audio), joined by +",
    "evaluate {run} --without text+vision+audio": "leaves nothing to read: keep one modality",
    "evaluate words --all-subsets": "has no modality that it can leave out: leave --all-subsets out",
    "evaluate {first} --all-subsets": "is a stage-1 run",
    "evaluate {run} --corrupt audio:asr=0.1": "audio can be damaged by noise or drop, found 'asr'",
    "evaluate {run} --corrupt smell:noise=1": "--corrupt damages text, vision, audio, found 'smell'",
    "evaluate {run} --corrupt-seed 0": "--corrupt-seed has no effect without --corrupt: give --corrupt, or",
    "plot {run} --kind curves --corrupt-seed 3": "--corrupt-seed is for robustness and has no effect on curves",
    "evaluate words --corrupt audio:drop=0.1": "--corrupt damages audio, but words reads only text: leave it out",
    "plot {run} --kind curves --corrupt text:asr=0.1": "--corrupt is for robustness and has no effect on curves",
    "evaluate --workspace {bad}": "there is no finished fine-tuning run below",
    "ablate --dataset tiny": "say what to leave out",
    f"{TRAIN.replace('finetune', 'ablate')} --drop C4 --drop C2+C3": "there is no representation to fuse",
    f"{TRAIN.replace('finetune', 'ablate')} --drop C4 --export {{bad}}": "a table must be exported as .md, .csv, .tex",
    f"{TRAIN.replace('finetune', 'ablate')} --drop C4 --export {{bad}}/empty/x.md": "a part of the path is a file",
    # predict
    "predict words": "one of --text, --source FILE.csv, --video FILE or a feature store",
    "predict words tiny --text good": "one of --text, --source FILE.csv, --video FILE or a feature store",
    "predict nothing --text good": "there is no run 'nothing' below",
    "predict {first} --text good": "is a stage-1 run",
    "predict {run} tiny-external": "reads vision frames of width 5, these clips have width 4",
    "predict words nothing": "there is no feature store {space}/features/nothing.h5",
    "predict words {bad}/newer.h5": "has store schema 9",
    "predict words --source {bad}/nothing": "cannot read",
    "predict words --source {bad}/empty": "is empty",
    "predict words --source {bad}/columns.csv": "must have the column text, separated",
    "predict words --source {bad}/header.csv": "has a header but no rows",
    "predict words --source {bad}/latin.csv": "must be UTF-8",
    "predict words --source {bad}/nul.csv": "holds NUL characters",
    "predict words --text \udcff": "--text must be UTF-8",
    "predict words --text good --export {bad}/scores.xls": "a table must be exported as .csv",
    "predict words --source {bad}/columns.csv --export {bad}/columns.csv": "would overwrite --source",
}


@pytest.mark.parametrize(("line", "reason"), WRONG.items(), ids=[ascii(line) for line in WRONG])
def test_wrong_input_is_one_line_and_leaves_nothing_behind(
    line: str, reason: str, space: Path, bad: Path, trained: Trained, encoder: Path
) -> None:
    places = {"space": space, "bad": bad, "encoder": encoder, "run": trained.run.name, "first": trained.first.name}
    before = snapshot(space), snapshot(bad)
    said = complaint(conki(space, *line.format(**places).split(" ")))
    assert reason.format(**places) in said
    assert (snapshot(space), snapshot(bad)) == before


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "prepare",
        "evaluate --split all",
        "ablate --table 3",
        "finetune --seed x",
        "predict",
        "runs --loud",
    ],
)
def test_a_mistyped_command_line_has_exit_code_2_and_points_to_the_help(line: str, space: Path) -> None:
    result = conki(space, *line.split())
    assert result.exit_code == 2
    assert "--help" in result.stderr
    assert "Traceback" not in result.output


def test_a_workspace_that_is_a_file_is_refused(bad: Path) -> None:
    result = conki(bad / "empty", "runs")
    assert result.exit_code == 2
    assert "is a file" in result.stderr


def test_a_switch_that_changes_nothing_says_so(own: Path, encoder: Path) -> None:
    result = conki(own, "finetune", *train("tiny", "tiny-external", encoder), "--drop", "C2+N1", "--epochs", "1")
    assert result.exit_code == 0
    assert "N1 has no effect here" in result.stderr


def test_an_encoder_that_cannot_be_fetched_says_how_to_get_it(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = complaint(conki(space, "finetune", *train("tiny", "none", Path("no-such-encoder"))))
    assert "hf download no-such-encoder" in said
    assert "--encoder FOLDER" in said


def test_a_table_needs_no_workspace_yet(tmp_path: Path) -> None:
    result = conki(tmp_path / "new", "runs")
    assert result.exit_code == 0
    assert "no runs below" in result.stderr
    assert not (tmp_path / "new").exists()


# --- a damaged run folder does not spoil the others ------------------------------------------------------------

DAMAGE: dict[str, Callable[[Path], object]] = {
    "torn result": lambda run: (run / "result.json").write_text("{"),
    "result of something else": lambda run: (run / "result.json").write_text('{"stage": "finetune", "digest": "0"}'),
    "torn settings": lambda run: (run / "config.toml").write_text("[data"),
    "no settings": lambda run: (run / "config.toml").unlink(),
    "torn result of a seed": lambda run: (run / "seed-1" / "result.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_named_and_the_others_work(
    damage: Callable[[Path], object], own: Path, trained: Trained, encoder: Path
) -> None:
    broken = own / "runs" / trained.run.name
    damage(broken)
    listed = conki(own, "runs", "--json")
    entries = {entry["name"]: entry for entry in answer(listed)["runs"]}
    assert str(broken) in listed.stderr
    assert (entries[broken.name]["state"], entries["words"]["state"]) == ("damaged", "finished")
    newest = conki(own, "evaluate", "--json")
    assert answer(newest)["run"] == "words"
    assert newest.stderr.startswith(f"warning: the run folder {broken} cannot be used: ")
    assert str(broken) in complaint(conki(own, "evaluate", broken.name))
    again = conki(own, "finetune", *train("tiny", "none", encoder), "--drop", "V+A", "--name", "words", *QUICK)
    assert again.exit_code == 0
    assert f"{own / 'runs' / 'words'} is finished, reused" in again.stderr
    named = conki(own, "finetune", *train("tiny", "none", encoder), "--drop", "V+A", "--name", broken.name, *QUICK)
    assert named.stderr.count(f"the run folder {broken} cannot be used") == 1


PARTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "predictions/test.csv": (lambda path: path.write_bytes(path.read_bytes()[:-2]), "evaluate words"),
    "predictions/valid.csv": (
        lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:3])),
        "evaluate words --split valid",
    ),
    "checkpoints/best.safetensors": (lambda path: path.write_bytes(path.read_bytes()[:99]), "predict words --text x"),
    "checkpoints": (shutil.rmtree, "predict words --text x"),
    "../encoder": (shutil.rmtree, "predict words --text x"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_part_of_a_run_is_named(part: str, own: Path) -> None:
    damage, command = PARTS[part]
    path = own / "runs" / "words" / "seed-1" / part
    damage(path)
    assert Path(part).name in complaint(conki(own, *command.split()))


def test_predictions_that_are_gone_are_made_again(own: Path) -> None:
    before = answer(conki(own, "evaluate", "words", "--json"))
    shutil.rmtree(own / "runs" / "words" / "seed-1" / "predictions")
    after = answer(conki(own, "evaluate", "words", "--json"))
    assert after["metrics"]["mae"]["mean"] == pytest.approx(before["metrics"]["mae"]["mean"], abs=1e-6)


def test_the_training_split_of_a_moved_run_is_predicted_where_the_run_lies(own: Path) -> None:
    shutil.move(own / "runs" / "words", own / "elsewhere")
    runs = snapshot(own / "runs")
    found = answer(conki(own, "evaluate", str(own / "elsewhere"), "--split", "train", "--json"))
    assert found["n"] == 13
    assert (own / "elsewhere" / "seed-1" / "predictions" / "train.csv").is_file()
    assert snapshot(own / "runs") == runs


# --- one JSON object on stdout ---------------------------------------------------------------------------------


def test_prepare_and_inspect_answer_with_the_same_object(own: Path) -> None:
    made = answer(conki(own, "prepare", "--dataset", "demo", "--json"))
    assert made["path"] == str(own / "features" / "demo.h5")
    assert {"path", "dataset", "splits", "widths", "repaired"} <= made.keys()
    assert made["splits"]["train"]["n"] > 0
    assert answer(conki(own, "inspect", "demo", "--json")) == made


def test_what_prepare_is_told_reaches_the_reader_and_the_store(own: Path) -> None:
    rows = "".join(f"v,{k},no,yes {k},1,{split}\n" for k, split in enumerate(SPLITS))
    (own / "said.csv").write_text("video_id,clip_id,text,words,label,mode\n" + rows, encoding="utf-8")
    ids = [f"v$_${k}" for k in range(3)]
    np.savez(own / "clips.npz", id=ids, labels=np.ones(3), audio=np.eye(3))
    line = ["--source", str(own / "clips.npz"), "--labels", str(own / "said.csv"), "--text-column", "words"]
    line += ["--normalize", "zscore", "--score-range", "-2..2"]
    made = answer(conki(own, "prepare", "--dataset", "mine", *line, "--json"))
    assert (made["normalization"]["method"], made["score_range"]) == ("zscore", [-2, 2])
    assert answer(conki(own, "inspect", "mine", "--clip", ids[1], "--json"))["text"] == "yes 1"


def test_evaluate_answers_with_values_per_seed_and_null_for_undefined(space: Path, trained: Trained) -> None:
    found = answer(conki(space, "evaluate", trained.run.name, "--json"))
    assert {"dataset", "split", "protocol", "n", "seeds", "metrics", "predictions"} <= found.keys()
    assert (found["dataset"], found["split"], found["protocol"]) == ("tiny", "test", "all")
    assert (found["n"], found["seeds"]) == (6, [1, 2])
    assert found["metrics"]["mae"].keys() == {"mean", "std", "values"}
    assert len(found["metrics"]["mae"]["values"]) == 2
    assert all(Path(path).is_file() for path in found["predictions"])
    single = answer(conki(space, "evaluate", "words", "--json"))
    assert single["metrics"]["mae"]["std"] is None


def test_predict_answers_with_the_mean_and_every_seed(space: Path, trained: Trained) -> None:
    found = answer(conki(space, "predict", trained.run.name, "tiny", "--json"))
    clip = found["clips"][0]
    assert (found["seeds"], len(found["clips"])) == ([1, 2], 6)
    assert clip["prediction"] == pytest.approx(sum(clip["by_seed"].values()) / 2)
    assert clip["id"] == "test$_$0"


def test_training_commands_answer_with_the_run_and_talk_on_stderr(space: Path, encoder: Path) -> None:
    arguments = [*train("tiny", "none", encoder), "--drop", "V+A", "--name", "words", *QUICK, "--json"]
    result = conki(space, "finetune", *arguments)
    assert answer(result)["run"] == "words"
    assert {"seeds", "metrics", "label", "path"} <= answer(result).keys()
    assert "is finished, reused" in result.stderr


def test_runs_and_settings_answer_with_lists(space: Path, trained: Trained) -> None:
    runs = answer(conki(space, "runs", "--json"))["runs"]
    assert {run["name"] for run in runs} == {"words", trained.run.name, trained.first.name}
    settings = {entry["setting"]: entry for entry in answer(conki(space, "settings", "--json"))["settings"]}
    assert settings["loss.temperature"]["default"] == 0.07


# --- a day's work ----------------------------------------------------------------------------------------------


def test_the_usual_day_works_as_typed(tmp_path: Path, encoder: Path) -> None:
    for name in ("MOSI", "MOSEI"):
        labels(tmp_path / "data" / name / "label.csv")
    quick = ["--encoder", str(encoder), *QUICK]
    prepared = conki(tmp_path, "prepare", "--dataset", "mosi")
    assert "published are 1284/229/686" in " ".join(prepared.stdout.split())
    trained = conki(tmp_path, "finetune", "--external", "mosei", *quick)
    assert "mosei.h5 did not exist yet: prepared from label.csv" in trained.stderr
    assert "ConKI, stage 1 on mosei, for mosi (text), seed 1" in trained.stderr
    assert "paper" in trained.stdout
    table = tmp_path / "tables" / "c4.md"
    ablated = answer(conki(tmp_path, "ablate", "--drop", "C4", *quick, "--export", str(table), "--json"))
    assert [row["label"] for row in ablated["rows"]] == ["ConKI", "w/o C4"]
    assert "w/o C4" in table.read_text(encoding="utf-8")
    assert answer(conki(tmp_path, "evaluate", "--json"))["run"] == ablated["rows"][1]["run"]
    assert conki(tmp_path, "evaluate").stdout.startswith("mosi, test split")


def test_the_full_model_of_an_ablation_takes_the_name(own: Path, encoder: Path) -> None:
    arguments = [*train("tiny", "none", encoder), "--drop-modality", "vision", "--drop-modality", "audio"]
    rows = answer(conki(own, "ablate", *arguments, "--name", "words", "--drop", "C4", *QUICK, "--json"))["rows"]
    assert rows[0]["run"] == "words"
    assert rows[1]["run"].startswith("tiny-conki-wo-C1+C4+V+A-")


@pytest.mark.parametrize(
    ("odd", "written"),
    [
        ("\x1b[2J", "\ufffd[2J"),
        ("=1+1", "'=1+1"),  # what a spreadsheet would compute
        ("a/../b", "a/../b"),
        ("\u202e", "\ufffd"),
        ("<b>", "<b>"),
        ("[red]", "[red]"),
        ("x" * 200, "x" * 200),
    ],
)
def test_odd_ids_and_texts_steer_neither_the_terminal_nor_a_spreadsheet(
    odd: str, written: str, space: Path, tmp_path: Path
) -> None:
    source, scores = tmp_path / "new.csv", tmp_path / "scores.csv"
    source.write_text(f'id,text\n"{odd}","{odd}"\n,\n', encoding="utf-8")
    result = conki(space, "predict", "words", "--source", str(source), "--export", str(scores))
    assert result.exit_code == 0, result.stderr
    assert not re.search(r"[\x1b\u202e]", result.output)
    assert scores.read_text(encoding="utf-8").splitlines()[1].startswith(f"{written},{written},")


def test_an_empty_text_gets_a_score(space: Path) -> None:
    found = answer(conki(space, "predict", "words", "--text", "", "--text", "good film", "--json"))
    assert [clip["text"] for clip in found["clips"]] == ["", "good film"]


# --- the screen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize(
    "line", ["evaluate", "evaluate --protocol nonzero", "runs", "inspect tiny", "settings", "predict words tiny"]
)
def test_every_table_fits_the_terminal(line: str, columns: int, space: Path) -> None:
    result = conki(space, *line.split(), columns=columns)
    assert result.exit_code == 0
    assert max(cell_len(row) for row in result.stdout.splitlines()) <= columns
    assert "…" not in result.stdout
