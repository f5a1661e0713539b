"""`conki demo --video`: videos made on the spot, their features, a small model, and scores for a clip."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from conki_cli.config.resolving import resolve
from conki_cli.data.extraction.cache import EXTRACTED, Extraction
from conki_cli.data.extraction.recipe import Recipe, difference, provenance_of
from conki_cli.data.preparation import Preparation, prepare
from conki_cli.data.sources.demo_videos import write_demo_videos
from conki_cli.data.sources.request import Options
from conki_cli.data.store.reading import FeatureStore
from conki_cli.experiments.execution import train_all
from conki_cli.experiments.videos import VideoTask, score_videos
from conki_cli.runs import Run
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

DATASET = "demo-video"
_EPOCHS = 8


def demo_video(
    workspace: Workspace, seeds: tuple[int, ...], device: str, observer: Observer
) -> tuple[Run, dict[str, Any]]:
    """Go the whole way from videos to scores; what is there already is used again.

    Returns:
        The run, on vision and audio, and the scores of one test clip.
    """
    folder = workspace.root / "data" / DATASET
    if not (folder / "label.csv").is_file():
        observer.say(f"drawing faces and making voices in {folder}")
        write_demo_videos(folder)
    extraction = Extraction(workspace.root / EXTRACTED, observer=observer)
    options = Options(format="videos", extraction=extraction)
    task = Preparation(DATASET, workspace, folder, score_range=(-3, 3), options=options, normalize="zscore")
    if not task.path.is_file() or _is_of_another_kind(task.path, extraction.recipe):
        prepare(task, observer)
    flags = {
        "data.dataset": DATASET,
        "data.external": "none",
        "model.drop": "T",
        "optimizer.num_epochs": _EPOCHS,
        "optimizer.batch_size": 5,
        "optimizer.lr_others": 1e-3,
        "optimizer.lr_audio_vision": 1e-3,
        "model.adapter_width": 32,
        "run.seeds": seeds,
        "run.device": device,
    }
    run = train_all([resolve(flags=flags)], workspace, observer)[0][1]
    clip = folder / "Raw" / "test05" / "1.mp4"
    video = VideoTask([clip], replace(extraction, observer=Observer()), device=device)
    return run, score_videos(run, video, workspace, observer)


def _is_of_another_kind(path: Path, recipe: Recipe) -> bool:
    """Say whether the features of an earlier start were made by a program that makes others than this one."""
    own = provenance_of(recipe)
    with FeatureStore(path) as store:
        return any(difference(store.extraction, own, name) for name in ("vision", "audio"))
