"""`conki compare` and `conki models` as their users meet them: tables, JSON, what is trained, what is refused."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Trained, make_corpus
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from conki_cli import MODALITIES
from conki_cli.cli import app
from conki_cli.config.resolving import resolve
from conki_cli.config.sections import MODELS
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.writing import write_store
from conki_cli.experiments import comparisons as contests
from conki_cli.experiments.execution import train_all
from conki_cli.model.contract import Architecture
from conki_cli.runs import Runs
from conki_cli.system.errors import RunError, SettingsError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

Conki = Callable[..., Result]
TRAIN = "--table 6 --dataset tiny --external tiny-external --epochs 1 --device cpu"
TRAIN += " --set pretraining.num_epochs=1 --set optimizer.batch_size=4"


def run_in(space: Path, line: str, columns: int = 80) -> Result:
    env = {"CONKI_WORKSPACE": str(space), "COLUMNS": str(columns), "FORCE_COLOR": None}
    return CliRunner().invoke(app, line.split(), env=env)


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout, parse_constant=pytest.fail)
    return found


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, trained: Trained, encoder: Path) -> Path:
    """A workspace with two more runs on `tiny`, both with seeds 1 and 2: Self-MM and MISA after tiny-external."""
    root = tmp_path_factory.mktemp("compared") / "space"
    shutil.copytree(trained.workspace.root, root, copy_function=shutil.copy2)
    done = run_in(root, f"compare {TRAIN} --models misa,self-mm --seeds 1,2 --encoder {encoder} --json")
    assert done.exit_code == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def names(space: Path) -> dict[str, str]:
    """Names of the fine-tuning runs by model."""
    runs = [run for run in Runs(Workspace(space)).usable() if run.record.stage == "finetune"]
    return {run.config.model.name: run.name for run in runs}


# ---- a table of the paper ----


def test_what_is_missing_is_trained_and_what_is_there_is_reused(space: Path, encoder: Path) -> None:
    line = f"compare {TRAIN} --models self-mm,misa --seeds 1,2 --encoder {encoder} --json"
    result = run_in(space, line)
    found = answer(result)
    assert result.stderr.count("is finished, reused") == 4  # two stages of two models
    assert [row["label"] for row in found["rows"]] == ["Self-MM, with tiny-external", "MISA, with tiny-external"]
    assert (found["table"], found["reference"]) == (6, "Self-MM, with tiny-external")


def test_only_the_seeds_asked_for_are_compared(space: Path, encoder: Path) -> None:
    result = run_in(space, f"compare {TRAIN} --models misa,self-mm --seed 2 --encoder {encoder} --json")
    assert [row["seeds"] for row in answer(result)["rows"]] == [[2], [2]]


def test_in_table_2_only_conki_reads_external_data() -> None:
    configs = contests.table_configs(2, flags={"run.seeds": (1, 2)})
    assert [config.model.name for config in configs] == list(MODELS)
    assert [config.data.external for config in configs] == ["mosei", *["none"] * 9]
    assert {(config.data.dataset, config.run.seeds) for config in configs} == {("mosi", (1, 2))}


def test_table_2_is_of_mosei_when_asked() -> None:
    configs = contests.table_configs(2, flags={"data.dataset": "mosei"})
    assert [config.data.external for config in configs] == ["mosi", *["none"] * 9]
    assert configs[1].optimizer.batch_size == 128  # TFN's preset for MOSEI


def test_table_3_is_of_sims_with_the_models_of_the_paper() -> None:
    configs = contests.table_configs(3)
    assert [config.model.name for config in configs] == [n for n in MODELS if n not in ("iccn", "hycon")]
    assert {config.data.dataset for config in configs} == {"sims"}
    assert {config.data.dataset for config in contests.table_configs(3, assignments=["data.dataset=demo"])} == {"demo"}


def test_table_3_is_of_another_data_set_when_a_flag_or_a_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[data]\ndataset = "mosei"\n', encoding="utf-8")
    assert {config.data.dataset for config in contests.table_configs(3, flags={"data.dataset": "mosi"})} == {"mosi"}
    assert {config.data.dataset for config in contests.table_configs(3, config_file=file)} == {"mosei"}


def test_table_3_is_of_sims_when_a_file_names_no_data_set(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[optimizer]\nbatch_size = 8\n", encoding="utf-8")
    configs = contests.table_configs(3, config_file=file)
    assert {(config.data.dataset, config.optimizer.batch_size) for config in configs} == {("sims", 8)}


def test_settings_of_one_model_in_a_file_go_to_that_model_only_and_its_name_to_no_row(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[misa]\ndropout = 0.25\n[loss]\ntemperature = 0.1\n[run]\nname = "x"\n', encoding="utf-8")
    conki, misa, tfn = contests.table_configs(2, ["conki", "misa", "tfn"], config_file=file)
    assert getattr(misa.own, "dropout", None) == 0.25
    assert (conki.loss.temperature, tfn.loss.temperature) == (0.1, 0.07)
    assert {config.run.name for config in (conki, misa, tfn)} == {""}


def test_a_name_for_all_rows_of_a_table_is_refused(tmp_path: Path) -> None:
    line = "compare --table 2 --dataset demo --models conki,misa,tfn --dry-run"
    for name in ("--name x", "--set run.name=x"):
        result = run_in(tmp_path, f"{line} {name}")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "a table has many models, each with its own run" in words(result.stderr)


def test_switches_reach_every_row() -> None:
    configs = contests.table_configs(2, ["conki", "mag-bert"], extra_drop=["V"])
    assert ["V" in config.model.drop for config in configs] == [True, True]


def test_in_table_6_every_model_reads_the_external_data() -> None:
    configs = contests.table_configs(6)
    assert [config.model.name for config in configs] == ["conki", "misa", "self-mm", "mmim"]
    assert {(config.data.dataset, config.data.external) for config in configs} == {("mosi", "mosei")}
    with pytest.raises(SettingsError, match="every model is trained on external data first"):
        contests.table_configs(6, flags={"data.external": "none"})


def test_conki_comes_first_and_other_models_can_be_named() -> None:
    configs = contests.table_configs(6, ["tfn", "conki", "misa"])
    assert [config.model.name for config in configs] == ["conki", "tfn", "misa"]


def test_settings_of_one_model_go_to_that_model_only() -> None:
    lines = ["tfn.text_out=4", "loss.temperature=0.1", "optimizer.batch_size=8"]
    conki, tfn, lmf = contests.table_configs(2, ["conki", "tfn", "lmf"], assignments=lines)
    assert (conki.loss.temperature, tfn.loss.temperature) == (0.1, 0.07)
    assert getattr(tfn.own, "text_out", None) == 4
    assert {config.optimizer.batch_size for config in (conki, tfn, lmf)} == {8}


def test_a_run_in_the_way_of_a_later_row_is_noticed_before_the_first_is_trained(
    workspace: Workspace, trained: Trained, encoder: Path
) -> None:
    shutil.copytree(trained.run.path, workspace.runs / "mine", copy_function=shutil.copy2)
    flags = {"data.dataset": "tiny", "data.external": "none", "model.text_encoder": str(encoder), "run.seeds": (1,)}
    first = resolve(flags={**flags, "model.name": "misa", "optimizer.num_epochs": 1})
    second = resolve(flags={**flags, "model.name": "tfn", "run.name": "mine"})
    before = sorted(path.name for path in workspace.runs.iterdir())
    with pytest.raises(RunError, match="run mine exists with other settings"):
        train_all([first, second], workspace, Observer())
    assert sorted(path.name for path in workspace.runs.iterdir()) == before


def test_stored_predictions_are_not_made_again(space: Path, names: dict[str, str]) -> None:
    run = next(run for run in Runs(Workspace(space)).usable() if run.name == names["misa"])
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("predictions/*.csv")}
    run_in(space, f"compare {names['misa']} {names['self-mm']}")
    assert run.predictions_path(1, "test") in before
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("predictions/*.csv")} == before


# ---- tests in table and JSON ----


def test_the_json_has_p_values_corrected_ones_and_effect_sizes(space: Path, names: dict[str, str]) -> None:
    found = answer(run_in(space, f"compare {names['misa']} {names['self-mm']} --json"))
    first, second = found["rows"]
    assert (first["tests"], second["common_seeds"], second["untested"]) == (None, [1, 2], None)
    cell = second["tests"]["mae"]
    assert cell.keys() == {"difference", "paired_t", "welch", "bootstrap", "reasons"}
    assert second["test_seeds"] == {
        "paired_t": [1, 2],
        "welch": {"reference": [1, 2], "row": [1, 2]},
        "bootstrap": [1, 2],
    }
    assert cell["paired_t"].keys() == {"statistic", "df", "p", "p_holm", "cohen_d"} == cell["welch"].keys()
    assert cell["difference"] == pytest.approx(second["metrics"]["mae"]["mean"] - first["metrics"]["mae"]["mean"])
    assert 0 < cell["welch"]["p"] <= cell["welch"]["p_holm"] <= 1
    assert (found["num_videos"], cell["bootstrap"]) == (1, None)
    assert set(second["tests"]) == {"mae", "corr", "acc7", "acc2_nonneg", "acc2_pos", "f1_nonneg", "f1_pos"}


def test_a_single_seed_is_compared_but_not_tested(space: Path, names: dict[str, str]) -> None:
    line = f"compare {names['misa']} {names['self-mm']} --seed 1"
    row = answer(run_in(space, f"{line} --json"))["rows"][1]
    assert (row["tests"], row["common_seeds"]) == (None, [1])
    assert row["untested"].startswith("a test needs at least two seeds of each system, found 1 of MISA")
    shown = run_in(space, line).stdout
    assert "not tested: a test needs at least two seeds of each system" in words(shown)
    assert not set("†‡§") & set(shown)


def test_the_table_names_its_tests_and_shows_only_the_papers_columns(space: Path, names: dict[str, str]) -> None:
    shown = run_in(space, f"compare {names['conki']} {names['misa']}").stdout
    assert shown.startswith("tiny, test split, protocol all, seeds 1, 2, n = 6")
    assert "no difference from ConKI found by: paired t-test over seeds" in words(shown)
    assert not set("†‡§") & set(shown)
    assert "Acc-7" in shown
    assert "Acc-5" not in shown


@pytest.mark.parametrize("columns", [62, 80, 120])
@pytest.mark.parametrize("line", ["compare {conki} {misa} {self-mm} --protocol nonzero", "models --store tiny"])
def test_every_table_fits_the_terminal(line: str, columns: int, space: Path, names: dict[str, str]) -> None:
    result = run_in(space, line.format(**names), columns)
    assert result.exit_code == 0, result.stderr
    assert max(cell_len(row) for row in result.stdout.splitlines()) <= columns
    assert "…" not in result.stdout


def test_the_table_is_exported(space: Path, names: dict[str, str], tmp_path: Path) -> None:
    done = run_in(space, f"compare {names['conki']} {names['misa']} --export {tmp_path / 'table.md'}")
    assert f"table written to {tmp_path / 'table.md'}" in done.stderr
    assert "| MISA, with tiny-external |" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_the_exported_values_stand_below_their_seeds_beside_their_run(
    space: Path, names: dict[str, str], tmp_path: Path
) -> None:
    own = Path(shutil.copytree(space, tmp_path / "own", copy_function=shutil.copy2))
    shutil.rmtree(own / "runs" / names["misa"] / "seed-1")
    done = run_in(own, f"compare {names['conki']} {names['misa']} --export {tmp_path / 'table.csv'} --json")
    found = {row["run"]: row["metrics"]["mae"]["values"] for row in answer(done)["rows"]}
    rows = [
        row
        for row in csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines())
        if row["metric"] == "mae" and row["run"]  # but for the training median
    ]
    assert [(row["run"], row["seeds"]) for row in rows] == [(names["conki"], "1 2"), (names["misa"], "2")]
    assert [float(rows[0][f"value_{seed}"]) for seed in (1, 2)] == found[names["conki"]]
    assert (rows[1]["value_1"], float(rows[1]["value_2"])) == ("", *found[names["misa"]])


def test_the_metrics_of_one_run_are_exported_with_its_name(space: Path, names: dict[str, str], tmp_path: Path) -> None:
    assert run_in(space, f"evaluate {names['misa']} --export {tmp_path / 'table.csv'}").exit_code == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert {(row["run"], row["seeds"]) for row in rows} == {(names["misa"], "1 2"), ("", "")}


def test_seeds_that_were_asked_for_and_are_not_there_are_named(space: Path, names: dict[str, str]) -> None:
    done = run_in(space, f"compare {names['misa']} {names['self-mm']} --seeds 1..4")
    for model in ("misa", "self-mm"):
        assert f"{names[model]}: seeds 3, 4 are not finished and left out" in done.stderr


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_stage_1_run_is_refused_whatever_the_split(
    split: str, space: Path, names: dict[str, str], trained: Trained
) -> None:
    said = run_in(space, f"compare {trained.first.name} {names['misa']} --split {split}").stderr
    expected = "is a stage-1 run, which does not predict the target: name a fine-tuned run"
    assert said == f"error: {trained.first.name} {expected}\n"


def test_a_stage_1_run_without_its_validation_predictions_says_so(
    space: Path, trained: Trained, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(space, tmp_path / "own", copy_function=shutil.copy2))
    (own / "runs" / trained.first.name / "seed-1" / "predictions" / "valid.csv").unlink()
    said = run_in(own, f"evaluate {trained.first.name} --split valid").stderr
    assert "a stage-1 run predicts only while it trains" in said


@pytest.mark.parametrize("name", ["result.json", "config.toml", "seed-1/result.json"])
def test_a_damaged_run_in_the_way_of_a_table_is_named_once(
    name: str, space: Path, names: dict[str, str], encoder: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(space, tmp_path / "own", copy_function=shutil.copy2))
    (own / "runs" / names["misa"] / name).write_text("[", encoding="utf-8")
    done = run_in(own, f"compare {TRAIN} --models misa,self-mm --seeds 1,2 --encoder {encoder}")
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be used" in done.stderr


@pytest.mark.parametrize("columns", [40, 80])
def test_names_of_runs_are_never_broken(columns: int, space: Path, names: dict[str, str]) -> None:
    shown = run_in(space, "runs", columns).stdout.split()
    assert set(names.values()) <= set(shown)


def test_predictions_of_another_split_are_made(space: Path, names: dict[str, str], tmp_path: Path) -> None:
    own = Path(shutil.copytree(space, tmp_path / "own", copy_function=shutil.copy2))
    found = answer(run_in(own, f"compare {names['misa']} {names['self-mm']} --split train --json"))
    assert [row["n"] for row in found["rows"]] == [13, 13]


# ---- what is refused ----

WRONG = {
    "compare": "name two or more finished runs, or give --table 2, 3 or 6",
    "compare {misa} {conki} --table 2": "name two or more finished runs, or give --table 2, 3 or 6",
    "compare {misa}": "a comparison needs two or more different runs",
    "compare {misa} {misa}": "a comparison needs two or more different runs",
    "compare {misa} nothing": "there is no run 'nothing' below",
    "compare {misa} {first}": "is a stage-1 run",
    "compare {misa} {conki} --epochs 3": "leave out --epochs",
    "compare {misa} {conki} --set loss.temperature=1": "leave out --set",
    "compare {misa} {conki} --encoder x": "leave out --encoder",
    "compare {misa} {conki} --models tfn": "leave out --models",
    "compare {misa} {conki} --seeds 7,8": "must have finished one of the requested seeds, but has 1, 2",
    "compare {misa} {conki} --export table.pdf": "a table must be exported as .md, .csv, .tex",
    "compare --table 2 --model tfn": "give --models instead of --model or --name",
    "compare --table 2 --name mine": "give --models instead of --model or --name",
    "compare --table 2 --models conki": "a comparison needs two or more different models, found conki",
    "compare --table 2 --models conki,tfn,tfn": "two or more different models, found conki, tfn, tfn",
    "compare --table 2 --models conki,mulT": "unknown model 'mulT': did you mean mult?",
    "compare --table 2 --models conki,tfn --set misa.width=2": "belongs to a model that is not compared",
    "compare --table 6 --external none": "every model is trained on external data first",
    "compare --table 2 --dataset words": "no feature store",
    "models --model mulT": "did you mean mult?",
    "models --store nothing": "features/nothing.h5: make it with",
}


@pytest.mark.parametrize(("line", "reason"), WRONG.items(), ids=WRONG)
def test_wrong_input_is_one_line_and_trains_nothing(
    line: str, reason: str, space: Path, names: dict[str, str], trained: Trained
) -> None:
    before = {path: path.stat().st_mtime_ns for path in space.rglob("*") if path.is_file() and path.suffix != ".lock"}
    result = run_in(space, line.format(**names, first=trained.first.name))
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert [said.startswith("error: ") for said in result.stderr.splitlines()] == [True]
    assert reason in result.stderr
    after = {path: path.stat().st_mtime_ns for path in space.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert after == before


def test_models_that_need_more_than_the_store_has_are_named_before_training(space: Path, encoder: Path) -> None:
    line = f"compare --table 2 --dataset tiny --external tiny-external --encoder {encoder} --drop-modality audio"
    said = run_in(space, line).stderr
    able = [name for name in MODELS if "audio" not in contests.zoo.model_class(name).required_modalities]
    assert "need a modality that is missing here: tiny.h5 and the switches leave text, vision" in said
    assert f"give --models {','.join(able)}" in said
    assert "tfn" not in able


def test_runs_of_another_version_of_the_store_are_refused(
    space: Path, names: dict[str, str], encoder: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(space, tmp_path / "own", copy_function=shutil.copy2))
    (own / "features" / "tiny.h5").unlink()
    write_store(own / "features" / "tiny.h5", make_corpus("tiny", (13, 6, 6), seed=9, longest=6))
    new = f"finetune --model misa --dataset tiny --encoder {encoder} --epochs 1 --name new --device cpu"
    assert run_in(own, new).exit_code == 0
    said = run_in(own, f"compare {names['misa']} new").stderr
    assert "were trained on different versions of the store tiny" in said


def test_another_number_of_table_has_exit_code_2(space: Path) -> None:
    assert run_in(space, "compare --table 4").exit_code == 2


# ---- the models ----


def test_all_ten_models_are_listed_with_paper_year_and_parameters(tmp_path: Path) -> None:
    found = answer(run_in(tmp_path, "models --json"))
    entries = {entry["name"]: entry for entry in found["models"]}
    assert list(entries) == list(MODELS)
    assert (entries["tfn"]["year"], entries["tfn"]["venue"]) == (2017, "EMNLP")
    assert all(entry["title"] and entry["pinned"] and entry["ours"] for entry in entries.values())
    assert {name: entries[name]["parameters"] for name in ("tfn", "self-mm", "hycon")} == {
        "tfn": 9_497_043,
        "self-mm": 159_332,
        "hycon": 215_321,
    }
    assert found["text_encoder"] == {"name": "bert-base-uncased", "width": 768, "num_layers": 12, "known": True}
    assert (found["store"], found["widths"]) == (None, {"vision": 20, "audio": 5})


def test_parameters_are_those_at_the_widths_of_the_store_and_the_encoder(space: Path, encoder: Path) -> None:
    found = answer(run_in(space, f"models --store tiny --model misa --encoder {encoder} --json"))
    assert (found["dataset"], found["widths"]) == ("tiny", {"vision": 5, "audio": 3})
    assert (found["text_encoder"]["width"], found["text_encoder"]["known"]) == (16, True)
    run = next(run for run in Runs(Workspace(space)).usable() if run.config.model.name == "misa")
    stored = run.seed_result(1)
    assert stored is not None
    with_text = stored.parameters["all"]
    assert [entry["name"] for entry in found["models"]] == ["misa"]
    assert 0 < found["models"][0]["parameters"] < with_text


def test_conki_is_counted_with_its_positions_for_the_official_lengths(tmp_path: Path) -> None:
    widths, lengths = {"vision": 20, "audio": 5}, {"vision": 500, "audio": 375}
    official = Architecture(MODALITIES, width=768, text_layers=12, widths=widths, positions=lengths)
    config = resolve(flags={"data.dataset": "mosi", "data.external": "none"})
    found = contests.describe_models(["conki"], None, None, Workspace(tmp_path))["models"][0]["parameters"]
    with torch.device("meta"):
        assert found == sum(p.numel() for p in contests.zoo.build(config, official, None).parameters())


def test_positions_are_those_of_the_training_clips_up_to_the_most_frames(tmp_path: Path) -> None:
    write_store(tmp_path / "tiny.h5", make_corpus("tiny", (9, 4, 1), seed=3, longest=30))
    with FeatureStore(tmp_path / "tiny.h5") as store:
        longest = store.longest("audio", "train")
        assert store.longest("audio", "test") < longest
        for most, expected in ((100, longest), (3, 3)):
            assert contests._architecture(store, most, 16, 4).positions == {"vision": expected, "audio": expected}


def test_an_encoder_that_is_not_there_is_replaced_by_the_sizes_of_bert_base(tmp_path: Path) -> None:
    line = f"models --model tfn --encoder {tmp_path / 'nowhere'}"
    assert answer(run_in(tmp_path, f"{line} --json"))["text_encoder"]["known"] is False
    assert "hidden size 768, that of BERT-base" in words(run_in(tmp_path, line).stdout)


def test_a_model_that_cannot_read_the_store_has_no_parameters_there(tmp_path: Path) -> None:
    corpus = make_corpus("tiny", (4, 2, 2), seed=1, longest=3)
    texts = {
        split: [type(clip)(clip.id, clip.text, clip.score) for clip in clips] for split, clips in corpus.splits.items()
    }
    write_store(tmp_path / "texts.h5", type(corpus)("tiny", (-3.0, 3.0), texts, "x", "drawn", "0" * 64))
    line = f"models --store {tmp_path / 'texts.h5'} --model tfn --model misa"
    entry = answer(run_in(tmp_path, f"{line} --json"))["models"][0]
    assert (entry["parameters"], entry["needs"]) == (None, ["audio", "vision"])
    assert "not here: needs audio and vision" in words(run_in(tmp_path, line).stdout)


def test_models_that_cannot_predict_the_scores_of_a_store_are_named_before_training(
    tmp_path: Path, encoder: Path
) -> None:
    corpus = dataclasses.replace(make_corpus("tiny", (4, 2, 2), seed=4, longest=3), dataset="stars")
    splits = {name: [dataclasses.replace(clip, score=5.0) for clip in clips] for name, clips in corpus.splits.items()}
    (tmp_path / "features").mkdir()
    write_store(tmp_path / "features" / "stars.h5", dataclasses.replace(corpus, splits=splits, score_range=(0.0, 10.0)))
    words = "--models conki,tfn,lmf --dataset stars --external none --dry-run"
    said = run_in(tmp_path, f"compare --table 2 {words} --encoder {encoder}").stderr
    assert "tfn cannot predict the scores of stars.h5, 0 to 10; give --models conki,lmf" in said
