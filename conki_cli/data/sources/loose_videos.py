"""Loose videos, named one by one: their features as files, or as clips to be scored."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conki_cli.data.extraction.cache import Clip, Extracted, Extraction
from conki_cli.data.sources.unlabelled import NO_RANGE
from conki_cli.data.sources.videos import frames_of, media_in
from conki_cli.data.store.records import ID_SEPARATOR, SCORED, SPLITS, Corpus, Sample
from conki_cli.data.store.writing import store_lock, write_store
from conki_cli.system.errors import SettingsError
from conki_cli.system.files import atomic_path, check_writable
from conki_cli.system.locks import locked
from conki_cli.system.readable import obstacle_at


def clips_of(paths: Sequence[Path]) -> list[Clip]:
    """Return the clips that files are, and those in folders; called by their names, and by their folders' where needed.

    Raises:
        SettingsError: there are none, one is named twice, or is a pipe or device.
    """
    for path in paths:
        if not path.is_dir() and (what := obstacle_at(path)):
            raise SettingsError(f"{path} must be a video or a folder but is {what}", advice="name a file")
    files = [file for path in paths for file in (list(media_in(path)) if path.is_dir() else [path])]
    if not files:
        raise SettingsError(f"name videos, or folders with videos: {', '.join(map(str, paths))} holds none")
    names = Counter(file.stem for file in files)
    clips = [Clip(file.stem if names[file.stem] == 1 else _with_folder(file), file) for file in files]
    twice = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise SettingsError(f"clips must have names of their own, {twice[0]!r} is there twice", advice="rename one")
    return clips


def _with_folder(file: Path) -> str:
    return f"{file.absolute().parent.name}{ID_SEPARATOR}{file.name}"


def write_archives(folder: Path, done: Sequence[Extracted], provenance: Mapping[str, Any]) -> list[Path]:
    """Write the features of each clip to an .npz of its name.

    Its arrays are `audio` [T, 74] and `vision` [T, 31], where there are any, `audio_columns`, `vision_columns`, and
    `provenance`, JSON.
    """
    written = []
    for extracted in done:
        path = folder / f"{extracted.id}.npz"
        check_writable(path)
        arrays: dict[str, Any] = {"provenance": np.array(json.dumps(dict(provenance)))}
        for modality in ("audio", "vision"):
            frames = frames_of(extracted, modality)
            if frames is not None:
                arrays[modality] = np.asarray(frames)
                if columns := provenance[modality].get("columns"):
                    arrays[f"{modality}_columns"] = np.array(columns)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        written.append(path)
    return written


def write_to_score(
    path: Path, done: Sequence[Extracted], extraction: Extraction, texts: Mapping[str, str] | None = None
) -> None:
    """Write a store of clips to be scored.

    Args:
        path: the store.
        done: the clips.
        extraction: how they were extracted.
        texts: what is said in them, by their ids.
    """
    samples = [
        Sample(
            one.id,
            (texts or {}).get(one.id, ""),
            math.nan,
            vision=frames_of(one, "vision"),
            audio=frames_of(one, "audio"),
        )
        for one in done
    ]
    corpus = Corpus(
        dataset="clips",
        score_range=NO_RANGE,
        splits={split: samples if split == SCORED else [] for split in SPLITS},
        source="videos",
        source_format="videos",
        source_sha256="",
        unlabelled=True,
        extraction=extraction.provenance(),
    )
    with locked(store_lock(path), what=str(path)):
        write_store(path, corpus)
