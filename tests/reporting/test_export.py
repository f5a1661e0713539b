"""Exported folders: the same bits, nothing of this machine, and what is refused of a folder from elsewhere."""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeConfig, Notes, OpenJob, Trained, content, equal_bits
from hub_support import Hub, running_hub
from huggingface_hub import ModelCard
from run_support import finetune
from typer.testing import CliRunner, Result

from conki_cli.cli import app
from conki_cli.data.store.reading import FeatureStore
from conki_cli.experiments.prediction import predict_new
from conki_cli.reporting.export import hub as exchange
from conki_cli.reporting.export.folders import Export, export_adapters, export_model
from conki_cli.runs import Run, digest_of, learning_warnings, read_predictions
from conki_cli.runs.exported import MANIFEST, adapters_at, open_exported, verify_export
from conki_cli.runs.predictions import evaluate_run
from conki_cli.system.errors import ConkiError, RunError, SettingsError
from conki_cli.system.files import umask
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.training import checkpoint
from conki_cli.training.jobs import build_model

ONCE = "optimizer.num_epochs=1"
VERSION_1 = Path(__file__).parents[1] / "fixtures" / "version_1"


def conki(*arguments: object) -> Result:
    """Run a command in this process, in a workspace that is not there."""
    env = {"CONKI_WORKSPACE": "/nonexistent", "COLUMNS": "200", "FORCE_COLOR": None}
    return CliRunner().invoke(app, [str(word) for word in arguments], env=env)


def complaint(*arguments: object) -> str:
    result = conki(*arguments)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert isinstance(result.exception, SystemExit)
    *said, last = result.stderr.splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith("error: ") for line in said)
    return last


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with seeds 1 and 2 as a folder; only to be read."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_model(Export(trained.run, license="mit"), folder, trained.workspace, Observer())
    return folder


@pytest.fixture(scope="module")
def adapters(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapters of its stage 1 as a folder; only to be read."""
    folder = tmp_path_factory.mktemp("exported") / "adapters"
    export_adapters(Export(trained.run), folder, trained.workspace, Observer())
    return folder


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported model, to be changed."""
    return Path(shutil.copytree(exported, tmp_path / "model"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on this machine, and a cache of the test's own; the library has read its variables long before."""
    with running_hub() as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
        yield served


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def relisted(folder: Path, **changes: Any) -> None:
    """List a folder's files again, as its hostile owner would."""
    listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name, entry in listed["files"].items():
        found = (folder / name).read_bytes()
        entry |= {"size": len(found), "sha256": hashlib.sha256(found).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps({**listed, **changes}), encoding="utf-8")


# ---- the same bits, and nothing else ----


def test_an_exported_model_predicts_the_bits_that_the_run_stored(trained: Trained, exported: Path) -> None:
    with FeatureStore(trained.workspace.store("tiny")) as store:
        found = predict_new(open_exported(exported), store.split("test"), "cpu")
    stored = [read_predictions(trained.run.predictions_path(seed, "test")).predictions for seed in (1, 2)]
    for seed, predictions in zip((1, 2), stored, strict=True):
        assert [np.float32(clip["by_seed"][str(seed)]) for clip in found["clips"]] == predictions.tolist()
    means = np.mean([predictions.astype(np.float64) for predictions in stored], axis=0)
    assert [clip["prediction"] for clip in found["clips"]] == means.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tfn", "self-mm", "mmim"])
def test_exported_systems_of_the_paper_predict_the_same_bits(
    name: str, workspace: Workspace, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run = finetune(tiny_config("", f"model.name={name}", "data.external=none", ONCE), workspace, Observer())
    export_model(Export(run), tmp_path / "model", workspace, Observer())
    assert (tmp_path / "model/encoder/frozen.safetensors").is_file() == (name == "tfn")
    with FeatureStore(workspace.store("tiny")) as store:
        clips = store.split("test")
        ours, theirs = (predict_new(one, clips, "cpu")["clips"] for one in (open_exported(tmp_path / "model"), run))
    assert ours == theirs


def test_an_exported_model_refuses_videos(exported: Path) -> None:
    for word in (exported, "me/mosi-conki@v1.0"):
        found = f"error: --video needs a run of the workspace, found an exported model, {str(word)[:80]}: name the run"
        assert complaint("predict", word, "--video", "clip.mp4").startswith(found)


def test_one_seed_alone_can_be_exported(trained: Trained, tmp_path: Path, exported: Path) -> None:
    manifest = export_model(Export(trained.run, (2,)), tmp_path / "one", trained.workspace, Observer())
    assert manifest.seeds == (2,)
    name = "seed-2/checkpoints/best.safetensors"
    assert equal_bits(content(tmp_path / "one" / name), content(exported / name))
    with pytest.raises(RunError, match=r"seed 3 .* must be finished but is not; finished: 1, 2"):
        export_model(Export(trained.run, (3,)), tmp_path / "three", trained.workspace, Observer())
    assert not (tmp_path / "three").exists()


def test_no_text_no_clip_and_no_path_of_this_machine_is_exported(trained: Trained, exported: Path) -> None:
    with FeatureStore(trained.workspace.store("tiny")) as store:
        clips = [store.split(split) for split in store.splits]
    texts = {text.encode() for part in clips for text in part.texts if " " in text}
    ids = {identity.encode() for part in clips for identity in part.ids}
    place = trained.config.model.text_encoder.rpartition("/")[0].encode()
    assert len(texts) > 20
    for name, found in files_of(exported).items():
        assert not [word for word in texts | ids | {place} if word in found], name


def test_exporting_twice_gives_the_same_bytes(trained: Trained, exported: Path, tmp_path: Path) -> None:
    export_model(Export(trained.run, license="mit"), tmp_path / "again", trained.workspace, Observer())
    assert files_of(tmp_path / "again") == files_of(exported)


def test_what_a_model_remembers_of_training_clips_stays_here(trained: Trained, tmp_path: Path) -> None:
    root = Path(shutil.copytree(trained.run.path, tmp_path / "runs" / "run"))
    run = Run(root)
    text = (root / "config.toml").read_text(encoding="utf-8")
    (root / "config.toml").write_text(text.replace('name = "conki"', 'name = "self-mm"'), encoding="utf-8")
    for seed in (1, 2):
        tensors, facts = checkpoint.load(run.checkpoint(seed, "best"))
        labels = next(iter(tensors.values())).new_ones(13, 4)
        checkpoint.save(run.checkpoint(seed, "best"), {**tensors, "labels": labels}, facts)
    export_model(Export(run), tmp_path / "out", trained.workspace, Observer())
    assert content(tmp_path / "out/seed-1/checkpoints/best.safetensors")["labels"].shape == (0, 4)


def test_a_stage_1_run_and_a_folder_that_is_not_empty_are_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is a stage-1 run, .* add --adapters-only"):
        export_model(Export(trained.first), tmp_path / "first", trained.workspace, Observer())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match="--out must be a new or empty folder"):
        export_model(Export(trained.run), tmp_path / "full", trained.workspace, Observer())
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_damaged_run_is_not_exported(trained: Trained, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(trained.run.path, tmp_path / "run")))
    path = run.checkpoint(2, "best")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ConkiError, match=r"best\.safetensors is damaged"):
        export_model(Export(run), tmp_path / "out", trained.workspace, Observer())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_run_of_version_1_takes_its_scale_from_its_store(tmp_path: Path) -> None:
    space, notes = Workspace(Path(shutil.copytree(VERSION_1, tmp_path / "space"))), Notes()
    run = Run(space.runs / "tiny-conki-35bc4a82")
    export_model(Export(run), tmp_path / "with", space, notes)
    assert json.loads((tmp_path / "with/normalization.json").read_text(encoding="utf-8"))["method"] == "none"
    assert notes.lines == []
    space.store("tiny").unlink()
    export_model(Export(run), tmp_path / "without", space, notes)
    (line,) = notes.lines
    assert line.startswith(f"warning: run {run.name}, of an older version, does not say how its training frames were ")


def test_an_export_below_runs_would_pass_for_a_run(trained: Trained) -> None:
    place = trained.workspace.root
    result = conki("export", trained.run.name, "--workspace", place, "--out", place / "runs" / "mine")
    assert (result.exit_code, "--out must not be below" in result.stderr) == (1, True)


@pytest.mark.skipif(os.name == "nt", reason="needs permissions of POSIX")
def test_an_export_has_the_permissions_of_any_new_folder(trained: Trained, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)  # as /tmp has
    export_model(Export(trained.run, (1,)), tmp_path / "out", trained.workspace, Observer())
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~umask()


# ---- the model card ----


def test_the_card_has_metadata_that_the_hubs_library_reads(trained: Trained, exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    data = card.data
    assert (data.license, data.library_name, data.datasets) == ("mit", "conki", ["tiny", "tiny-external"])
    assert data.metrics == ["mae", "pearsonr", "accuracy", "f1"]
    results = {result.metric_name: result for result in data.eval_results}
    mae = trained.run.record.metrics["test"]["mae"]["mean"]
    own = evaluate_run(trained.run, "test", "all", seeds=(1, 2)).mean_prediction["mae"]
    assert own != mae
    assert results["MAE"].metric_value == round(own, 6)  # what the folder predicts
    assert (results["MAE"].dataset_name, results["MAE"].task_type) == ("tiny", "video-classification")
    assert f"| MAE | {mae:.3f} ± " in card.text
    assert re.search(rf"\| MAE \| .* \| {own:.3f} \|\n", card.text)
    assert data.base_model is None  # its encoder is a folder of this machine


def test_the_card_of_a_run_without_predictions_lacks_their_mean(trained: Trained, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(trained.run.path, tmp_path / "run")))
    shutil.rmtree(run.seed_folder(2) / "predictions")
    notes = Notes()
    export_model(Export(run), tmp_path / "out", trained.workspace, notes)
    assert [line for line in notes.lines if line.startswith("the card has no metrics of the mean prediction: ")]
    card = ModelCard.load(tmp_path / "out/README.md")
    assert ("mean prediction" in card.text, card.data.model_name) == (False, run.name)


def test_the_card_says_where_a_seed_did_not_learn(trained: Trained, exported: Path) -> None:
    warnings = learning_warnings(trained.run, (1, 2))
    assert "optimizer.lr_encoders" in " ".join(warnings)
    card = ModelCard.load(exported / "README.md")
    for line in warnings:
        assert f"**Warning**: {line}\n".replace("lr_", r"lr\_").replace("num_", r"num\_") in card.text


def test_the_metrics_of_an_exported_seed_are_its_own(trained: Trained, tmp_path: Path) -> None:
    export_model(Export(trained.run, (2,)), tmp_path / "one", trained.workspace, Observer())
    (mae,) = [r for r in ModelCard.load(tmp_path / "one/README.md").data.eval_results if r.metric_type == "mae"]
    assert mae.metric_value == round(trained.run.seed_result(2).metrics["test"]["mae"], 6)


def test_the_card_names_the_classes_of_a_threshold(trained: Trained, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(trained.run.path, tmp_path / "run")))
    text = (run.path / "config.toml").read_text(encoding="utf-8")
    (run.path / "config.toml").write_text(text.replace("[data]", "[data]\nthreshold = 0.5"), encoding="utf-8")
    export_model(Export(run), tmp_path / "out", trained.workspace, Observer())
    card = ModelCard.load(tmp_path / "out/README.md")
    assert "| Acc-2 (below 0.5 / 0.5 and above) | " in card.text
    assert "F1 (below 0.5 / above 0.5)" in {result.metric_name for result in card.data.eval_results}


def test_a_quick_look_is_not_published_as_the_result_of_a_data_set(trained: Trained, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(trained.run.path, tmp_path / "run")))
    text = (run.path / "config.toml").read_text(encoding="utf-8")
    (run.path / "config.toml").write_text(text.replace("limit = 0", "limit = 6"), encoding="utf-8")
    export_model(Export(run, (1,)), tmp_path / "out", trained.workspace, Observer())
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.eval_results is None
    assert "| metric | test split, n = 6 |" in card.text
    assert "**Warning**: a quick look: at most 6 clips of each split were used" in card.text


def test_an_encoder_of_the_hub_is_the_base_model(trained: Trained, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(trained.run.path, tmp_path / "run")))
    text = (run.path / "config.toml").read_text(encoding="utf-8")
    hub_name = re.sub(r'text_encoder = ".*"', 'text_encoder = "google-bert/bert-base-uncased"', text)
    (run.path / "config.toml").write_text(hub_name, encoding="utf-8")
    export_model(Export(run), tmp_path / "path", trained.workspace, Observer())
    assert ModelCard.load(tmp_path / "path/README.md").data.base_model is None  # a path that looks like a name
    result = json.loads((run.path / "result.json").read_text(encoding="utf-8"))
    (run.path / "result.json").write_text(json.dumps({**result, "digest": digest_of(run.config)}), encoding="utf-8")
    export_model(Export(run), tmp_path / "named", trained.workspace, Observer())
    assert ModelCard.load(tmp_path / "named/README.md").data.base_model == "google-bert/bert-base-uncased"


def test_hostile_names_steer_nothing_in_the_card(trained: Trained, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(trained.run.path, tmp_path / "run")))
    text = (run.path / "config.toml").read_text(encoding="utf-8")
    hostile = re.sub(r'text_encoder = ".*"', r'text_encoder = "/x/`](javascript:1)|<script>\\n---"', text)
    (run.path / "config.toml").write_text(hostile, encoding="utf-8")
    export_model(Export(run), tmp_path / "out", trained.workspace, Observer())
    card = ModelCard.load(tmp_path / "out/README.md")
    assert "`'](javascript:1)/<script> ---`" in card.text
    assert card.data.license == "other"


def test_a_licence_is_an_identifier(trained: Trained, tmp_path: Path) -> None:
    asked = ("export", trained.run.path, "--out", tmp_path / "x", "--license")
    assert "--license takes an identifier of the hub" in complaint(*asked, "mit\n---")


# ---- what is refused ----


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def linked(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to(path.with_name("moved"))


HARM: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "changed": ("seed-1/checkpoints/best.safetensors", flip, "was changed"),
    "frozen": ("seed-2/checkpoints/frozen.safetensors", flip, "was changed"),
    "tokenizer": ("encoder/tokenizer.json", flip, "was changed"),
    "truncated": ("config.toml", lambda path: os.truncate(path, 9), "must have"),
    "missing": ("encoder/config.json", Path.unlink, "must exist but does not"),
    "no list": (MANIFEST, Path.unlink, "has no such file"),
    "no result": ("result.json", Path.unlink, "must exist but does not"),
    "link": ("seed-1/checkpoints/best.safetensors", linked, "is a link"),
    "linked folder": ("seed-1", linked, "is a link"),
    "unlisted": ("encoder/special_tokens_map.json", Path.touch, "is not in the list"),
    "unlisted link": ("encoder/deeper", lambda path: path.symlink_to("..", True), "is not in the list"),
    "unlisted scale": ("generation.json", Path.touch, "is not in the list"),
    "huge list": (MANIFEST, lambda path: os.truncate(path, 2 << 20), "has no such file"),
    "nested list": (MANIFEST, lambda path: path.write_text("[" * 99_999), "must list"),
}


@pytest.mark.parametrize("name", HARM)
def test_a_folder_that_was_changed_is_refused_in_one_line(name: str, model: Path) -> None:
    place, harm, words = HARM[name]
    harm(model / place)
    assert words in complaint("predict", model, "--text", "good film")


def adds(found: dict[str, Any], name: str) -> None:
    found["files"][name] = found["files"]["config.toml"]


ALIEN = "is not a file of an exported folder"
CHANGED_LISTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer": (lambda found: found.update(schema=2), "install a newer conki"),
    "outside": (
        lambda found: found["files"].update({"../../x.json": found["files"]["config.toml"]}),
        "is not a file of",
    ),
    "absolute": (
        lambda found: found["files"].update({"/etc/x.json": found["files"]["config.toml"]}),
        "is not a file of",
    ),
    "pickle": (
        lambda found: found["files"].update({"encoder/x.bin": found["files"]["config.toml"]}),
        "is not a file of",
    ),
    "case": (
        lambda found: found["files"].update({"encoder/Config.json": found["files"]["encoder/config.json"]}),
        "differ only in upper and lower case",
    ),
    "negative": (lambda found: found["files"]["config.toml"].update(size=-1), "is invalid"),
    "no seeds": (lambda found: found.update(seeds=[]), "seeds must be"),
    "no weights": (lambda found: found["files"].pop("seed-2/checkpoints/best.safetensors"), "must list seed-2"),
    "list of files": (lambda found: found.update(files=[1]), "must list"),
}


@pytest.mark.parametrize("name", CHANGED_LISTS)
def test_a_list_of_files_that_makes_no_sense_is_refused(name: str, model: Path) -> None:
    change, words = CHANGED_LISTS[name]
    found = json.loads((model / MANIFEST).read_text(encoding="utf-8"))
    change(found)
    (model / MANIFEST).write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(RunError, match=words):
        verify_export(model)


def hostile_toml(folder: Path) -> None:
    (folder / "config.toml").write_text(f"a = {'[' * 9999}", encoding="utf-8")


def other_switch(folder: Path) -> None:
    text = (folder / "config.toml").read_text(encoding="utf-8")
    (folder / "config.toml").write_text(text.replace("num_layers = 2", "num_layers = 3"), encoding="utf-8")


def endless_encoder(folder: Path) -> None:
    path = folder / "encoder/config.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**found, "num_hidden_layers": 10**9}), encoding="utf-8")


def huge_network(folder: Path) -> None:
    path = folder / "seed-1/checkpoints/best.safetensors"
    tensors, facts = checkpoint.load(path)
    facts["architecture"]["positions"] = {"vision": 10**11, "audio": 10**11}
    checkpoint.save(path, tensors, facts)


def endless_range(folder: Path) -> None:
    path = folder / "result.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**found, "score_range": ["\x1b[2J", 1]}), encoding="utf-8")


HOSTILE = {
    hostile_toml: "config.toml",
    other_switch: "lack",
    endless_encoder: "num_hidden_layers in",
    huge_network: "does not fit the model",
    endless_range: "must describe a run",
}


@pytest.mark.parametrize("harm", HOSTILE, ids=lambda harm: harm.__name__)
def test_a_hostile_folder_with_right_checksums_ends_in_one_line(harm: Callable[[Path], None], model: Path) -> None:
    harm(model)
    relisted(model)
    assert HOSTILE[harm] in complaint("predict", model, "--text", "good film")


def test_a_card_and_files_of_other_programs_may_change(model: Path) -> None:
    (model / "README.md").write_text("my own words", encoding="utf-8")
    (model / ".git").mkdir()
    (model / ".git" / "config.json").write_text("{}", encoding="utf-8")
    (model / "LICENSE").write_text("MIT", encoding="utf-8")
    assert open_exported(model).finished_seeds() == [1, 2]


def test_other_commands_ask_for_the_run_itself(exported: Path, adapters: Path) -> None:
    assert "is an exported model, for `conki predict`" in complaint("evaluate", exported)
    assert "which cannot predict without a trained model" in complaint("predict", adapters, "--text", "good")


# ---- adapters ----


@pytest.fixture(scope="module")
def injected(
    trained: Trained, adapters: Path, tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Notes, Workspace]:
    """A stage 2 with seed 1 from the folder of adapters; no external store is there."""
    space, notes = Workspace(tmp_path_factory.mktemp("injected")), Notes()
    shutil.copytree(trained.workspace.root / "features", space.root / "features")
    (space.root / "features" / "tiny-external.h5").unlink()
    return finetune(given(tiny_config, adapters, ONCE), space, notes), notes, space


def given(make: MakeConfig, folder: Path, *assignments: str, **run: object) -> Any:
    lines = (f"model.adapters={folder}", f"model.adapters_checksum={adapters_at(folder).checksum}")
    return make("", *lines, *assignments, **run)


def test_given_adapters_train_the_bits_of_the_stage_1_that_they_are_from(
    copied: Workspace, injected: tuple[Run, Notes, Workspace], tiny_config: MakeConfig
) -> None:
    own = finetune(tiny_config("handover", ONCE, seeds=(1,)), copied, Observer())
    ours, theirs = (content(run.checkpoint(1, "frozen")) for run in (injected[0], own))
    assert equal_bits(ours, theirs)
    assert len(ours) > 20
    ours, theirs = (content(run.checkpoint(1, "best")) for run in (injected[0], own))
    for name, tensor in ours.items():  # there the encoders have positions for the longer external clips
        assert theirs[name][: len(tensor)].equal(tensor), name


def test_a_run_from_given_adapters_keeps_their_checksum_and_continues_from_another_place(
    injected: tuple[Run, Notes, Workspace], adapters: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run, notes, space = injected
    checksum = adapters_at(adapters).checksum
    assert run.config.model.adapters_checksum == checksum
    assert any("seed 1 starts from the adapters in" in line and checksum[:12] in line for line in notes.lines)
    assert run.record.label == "ConKI, given adapters"
    moved = Path(shutil.copytree(adapters, tmp_path / "moved"))
    again = Notes()
    assert finetune(given(tiny_config, moved, ONCE), space, again).path == run.path
    assert any("is finished, reused" in line for line in again.lines)


def test_given_adapters_that_were_changed_train_nothing(
    injected: tuple[Run, Notes, Workspace], adapters: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    space = injected[2]
    before = sorted(path.name for path in space.runs.iterdir() if path.is_dir())
    config = given(tiny_config, Path(shutil.copytree(adapters, tmp_path / "changed")), seeds=(2,))
    export = json.loads((tmp_path / "changed" / MANIFEST).read_text(encoding="utf-8"))
    (tmp_path / "changed/config.toml").write_text("[model]\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"config\.toml must have"):
        finetune(config, space, Observer())
    relisted(tmp_path / "changed", seeds=export["seeds"])
    with pytest.raises(RunError, match="must hold the adapters with the checksum"):
        finetune(config, space, Observer())
    assert sorted(path.name for path in space.runs.iterdir() if path.is_dir()) == before


MISFITS = {
    "model.num_heads=4": "model.num_heads = 8 and this run has 4",
    "model.adapter_width=8": "model.adapter_width = 0 and this run has 8",
    "run.seeds=[7]": "are of seeds 1, 2, and seed 7 must be one of them",
}


@pytest.mark.parametrize("line", MISFITS)
def test_adapters_that_do_not_fit_are_refused_before_training(
    line: str, injected: tuple[Run, Notes, Workspace], adapters: Path, tiny_config: MakeConfig
) -> None:
    with pytest.raises(RunError, match=MISFITS[line]):
        finetune(given(tiny_config, adapters, line), injected[2], Observer())


def test_an_input_layer_of_another_width_is_untrained_with_its_bias(
    adapters: Path, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    config = given(tiny_config, adapters, "data.dataset=tiny-external", "data.external=none", ONCE)
    weights = build_model(open_job(config), 1, None).state_dict()
    stored, name = content(adapters / "seed-1/adapters.safetensors"), "encoders.{}.projection.bias"
    assert torch.equal(weights[name.format("audio")], stored[name.format("audio")])
    assert not torch.equal(weights[name.format("vision")], stored[name.format("vision")])


@pytest.mark.slow
def test_frames_of_another_width_get_a_fresh_input_layer(
    trained: Trained, adapters: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    space, notes = Workspace(tmp_path), Notes()
    (tmp_path / "features").mkdir()
    shutil.copy(trained.workspace.store("tiny-external"), tmp_path / "features" / "tiny-external.h5")
    config = given(tiny_config, adapters, "data.dataset=tiny-external", "data.external=none", ONCE)
    run = finetune(config, space, notes)
    assert any("the input layers of vision start untrained" in line for line in notes.lines)
    kept = content(run.checkpoint(1, "frozen"))
    assert equal_bits(kept, {k: v for k, v in content(adapters / "seed-1/adapters.safetensors").items() if k in kept})


def test_switches_without_adapters_do_not_go_with_given_ones(adapters: Path, tiny_config: MakeConfig) -> None:
    line = f"model.adapters={adapters}"
    for switch in ("C1", "C2", "plain-transfer"):
        with pytest.raises(SettingsError, match=f"{switch} drops the adapters that --adapters gives"):
            tiny_config(switch, line, "model.adapters_checksum=abc")
    with pytest.raises(SettingsError, match=r"needs model\.adapters_checksum"):
        tiny_config("", line)
    assert "replaces --external" in complaint("finetune", "--external", "mosei", "--adapters", adapters)


@pytest.mark.slow
def test_an_exported_run_of_given_adapters_predicts_the_same_bits(
    injected: tuple[Run, Notes, Workspace], tmp_path: Path
) -> None:
    run, _, space = injected
    export_model(Export(run), tmp_path / "model", space, Observer())
    model = open_exported(tmp_path / "model")
    assert (model.config.model.adapters, model.config.model.drop) == ("", ())
    with FeatureStore(space.store("tiny")) as store:
        found = predict_new(model, store.split("test"), "cpu")["clips"]
    stored = read_predictions(run.predictions_path(1, "test")).predictions
    assert [np.float32(clip["prediction"]) for clip in found] == stored.tolist()


def test_runs_without_adapters_have_none_to_export(trained: Trained, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(trained.run.path, tmp_path / "runs" / "run")))
    with pytest.raises(RunError, match=r"the stage-1 run .* is missing: restore it"):
        export_adapters(Export(run), tmp_path / "out", trained.workspace, Observer())


# ---- the hub ----


def test_a_model_is_pushed_pulled_and_predicts_without_a_workspace(
    hub: Hub, exported: Path, trained: Trained, tmp_path: Path
) -> None:
    pushed = conki("push", exported, "me/tiny", "--private", "--json")
    assert pushed.exit_code == 0, pushed.stderr
    assert hub.private == {"me/tiny": True}
    pulled = conki("pull", f"me/tiny@{json.loads(pushed.stdout)['commit']}", "--out", tmp_path / "here")
    assert pulled.exit_code == 0, pulled.stderr
    assert re.search(r"me/tiny@\w{40} at \w{12}: a trained model, \d+ files, \d+\.\d KiB", pulled.stderr)
    assert files_of(tmp_path / "here") == files_of(exported)
    store = trained.workspace.store("tiny")
    found = json.loads(conki("predict", "me/tiny", store, "--json").stdout)
    assert found["run"].startswith("me/tiny@")
    stored = read_predictions(trained.run.predictions_path(2, "test")).predictions
    assert [np.float32(clip["by_seed"]["2"]) for clip in found["clips"]] == stored.tolist()


def test_only_files_of_an_exported_folder_are_fetched(hub: Hub, exported: Path, tmp_path: Path) -> None:
    more = {
        "pytorch_model.bin": b"cos\nsystem\n",
        "encoder/modeling.py": b"1/0",
        "../../out.json": b"{}",
        "a.json": b"{}",
    }
    hub.commit("me/tiny", {**files_of(exported), **more})
    exchange.pull(exchange.parse_repo("me/tiny"), tmp_path / "here", Observer())
    assert hub.downloads() == set(files_of(exported))
    assert files_of(tmp_path / "here") == files_of(exported)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_what_the_hub_sends_is_compared_with_the_checksums(hub: Hub, exported: Path, tmp_path: Path) -> None:
    name = "seed-1/checkpoints/best.safetensors"
    files = files_of(exported)
    hub.commit("me/tiny", files)
    hub.served[name] = files[name][:-1] + b"x"
    assert "was changed" in complaint("pull", "me/tiny", "--out", tmp_path / "here")
    assert "was changed" in complaint("predict", "me/tiny", "--text", "good")
    assert not (tmp_path / "here").exists()


def test_sizes_that_do_not_fit_are_refused_before_weights_are_fetched(hub: Hub, exported: Path, tmp_path: Path) -> None:
    hub.commit("me/tiny", files_of(exported))
    hub.sizes["seed-1/checkpoints/best.safetensors"] = 10**12
    assert "but has 1000000000000 bytes" in complaint("pull", "me/tiny", "--out", tmp_path / "here")
    assert hub.downloads() == {MANIFEST}


def test_a_list_that_names_files_outside_of_the_folder_is_refused(hub: Hub, exported: Path, tmp_path: Path) -> None:
    found = json.loads(files_of(exported)[MANIFEST])
    found["files"]["../../out.json"] = found["files"]["config.toml"]
    hub.commit("me/tiny", {**files_of(exported), MANIFEST: json.dumps(found).encode()})
    assert "is not a file of an exported folder" in complaint("pull", "me/tiny", "--out", tmp_path / "here")
    assert hub.downloads() == {MANIFEST}


def test_a_revision_pins_what_is_fetched(hub: Hub, exported: Path, tmp_path: Path) -> None:
    first = hub.commit("me/tiny", files_of(exported))
    hub.commit("me/tiny", {"README.md": b"gone"})
    assert "was not made by `conki export`" in complaint("pull", "me/tiny", "--out", tmp_path / "new")
    done = exchange.pull(exchange.parse_repo(f"me/tiny@{first}"), tmp_path / "old", Observer())
    assert done["commit"] == first
    assert "has no such branch, tag or commit" in complaint("pull", "me/tiny@v9")
    assert "the hub has no such model" in complaint("pull", "me/nothing")


def test_a_fetched_model_works_while_the_hub_cannot_be_reached(
    hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit("me/tiny", files_of(exported))
    online, name = exchange.fetch(exchange.parse_repo("me/tiny"), Observer())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    notes = Notes()
    assert exchange.fetch(exchange.parse_repo("me/tiny"), notes) == (online, name)
    assert "HF_HUB_OFFLINE is set" in notes.lines[0]
    assert "me/other cannot be fetched" in complaint("predict", "me/other", "--text", "good")


def test_a_push_verifies_first_and_clears_what_an_earlier_one_left(hub: Hub, model: Path) -> None:
    hub.commit("me/tiny", {"seed-9/result.json": b"{}", "mine.md": b"kept", ".gitattributes": b""})
    exchange.push(model, exchange.parse_repo("me/tiny"), Observer(), private=False, message="first")
    assert set(hub.commits[hub.branches["me/tiny"]["main"]]) == {*files_of(model), "mine.md", ".gitattributes"}
    flip(model / "seed-1/checkpoints/best.safetensors")
    hub.asked.clear()
    assert "was changed" in complaint("push", model, "me/tiny")
    assert hub.asked == []


def test_nothing_private_goes_to_a_public_repository_or_without_a_login(hub: Hub, exported: Path) -> None:
    before = hub.commit("me/tiny", {".gitattributes": b""})
    assert "exists and is public" in complaint("push", exported, "me/tiny", "--private")
    hub.token = "hf_of_another"
    assert "log in with `hf auth login`" in complaint("push", exported, "me/tiny")
    assert hub.branches["me/tiny"]["main"] == before


@pytest.mark.parametrize(
    "word", ["tiny", "me/tiny/x", "../tiny", "me/..", "me/tiny@", "me/tiny@../x", "-me/tiny", "a/b c"]
)
def test_what_is_no_model_of_the_hub_is_said_to_be_none(word: str) -> None:
    with pytest.raises(SettingsError, match="must have the form OWNER/NAME or OWNER/NAME@REVISION"):
        exchange.parse_repo(word)
