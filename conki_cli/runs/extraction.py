"""How the features that a run was trained on were made of videos, so that new clips are made in the same way.

`extraction.json` in the run folder is the note of the training store (`data/extraction/recipe.py`). Runs on features
that came in files have none.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conki_cli.config.switches import MODALITY_SWITCHES
from conki_cli.data.extraction.recipe import NONE, Recipe, difference, provenance_of
from conki_cli.data.store.reading import FeatureStore
from conki_cli.runs.folders import Run, check_is_file
from conki_cli.system.errors import RunError
from conki_cli.system.files import read_json, write_json
from conki_cli.system.findings import Finding, attempt, fault
from conki_cli.system.readable import status_of

_FILE = "extraction.json"


def write_extraction(run: Run, store: FeatureStore) -> None:
    """Note in a run how the features of its training store were made of videos, if they were.

    A store that was prepared again may have the same numbers and another note: then the note is the newer one.
    """
    if store.extraction and attempt(read_extraction, run)[0] != store.extraction:
        write_json(run.path / _FILE, store.extraction)


def read_extraction(run: Run) -> dict[str, Any]:
    """Return the note in a run; empty: its features came in files.

    Raises:
        RunError: the file does not hold one.
    """
    path = run.path / _FILE
    check_is_file(path)
    if status_of(path) is None:
        return {}
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        raise RunError(
            f"{path} must say how features were extracted but does not", advice="restore it from the training store"
        )
    return found


def used_frames(run: Run) -> list[str]:
    """Return which of vision and audio a run reads."""
    dropped = run.config.model.drop
    return [name for name in ("vision", "audio") if MODALITY_SWITCHES[name] not in dropped]


def recipe_of(run: Run, face_models: Path | None = None) -> Recipe:
    """Return the recipe that makes the features a run was trained on.

    Raises:
        RunError: its features came in files, or this program would make others.
        SettingsError: a library or a model file is missing.
    """
    wanted = read_extraction(run)
    used = [name for name in used_frames(run) if name in wanted or name in _modalities(run)]
    if missing := [name for name in used if name not in wanted]:
        raise RunError(
            f"run {run.name} reads {' and '.join(missing)} features that came in files, and those of a video would be "
            "of another kind: score files of the same kind, or train on a store that `conki prepare` makes from videos"
        )
    chosen: dict[str, Any] = {
        name: str(wanted[name].get("extractor")) if name in used else NONE for name in ("audio", "vision")
    }
    rate = wanted.get("vision", {}).get("rate")
    recipe = Recipe(**chosen, fps=float(rate) if isinstance(rate, int | float) else None, face_models=face_models)
    found = provenance_of(recipe)
    for name in used:
        if what := difference(wanted, found, name):
            raise RunError(
                f"run {run.name} was trained on features of another kind ({what})",
                advice="install what made those; or prepare the training data again and repeat the command that "
                "trained the run (with --overwrite if it says that the data are others)",
            )
    return recipe


def _modalities(run: Run) -> tuple[str, ...]:
    """Return the modalities with frames that the run's training store had."""
    from conki_cli.runs.normalization import read_scale

    scale = read_scale(run)
    return scale.modalities if scale is not None else ("vision", "audio")


def verify_extraction(run: Run) -> Iterator[Finding]:
    """Verify how the training frames were made of videos, if a run says so."""
    error = attempt(read_extraction, run)[1]
    if error is not None:
        path = run.path / _FILE
        yield fault(path, error, path, "restore it; without it, the run scores stores but no videos")
