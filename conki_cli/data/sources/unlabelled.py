"""Clips to be scored: from any supported format, without scores, all in one split."""

import math
from dataclasses import replace
from pathlib import Path

from conki_cli.data.sources.clip_files import holds_clips
from conki_cli.data.sources.features import read_features, to_score
from conki_cli.data.sources.request import Options, Request
from conki_cli.data.store.records import FRAME_MODALITIES, SCORED, SPLITS, Corpus
from conki_cli.system.errors import SourceError

NO_RANGE = (-math.inf, math.inf)
"""The score range of clips without scores."""


def without_labels(corpus: Corpus) -> Corpus:
    """Return the clips of all splits together, without scores."""
    clips = [replace(clip, score=math.nan, unimodal={}) for part in corpus.splits.values() for clip in part]
    if not clips:
        raise SourceError(
            f"{corpus.source} must have at least one clip to be scored, found none", advice="name another source"
        )
    filled = [split for split, part in corpus.splits.items() if part]
    together = [f"clips of {', '.join(filled)} are combined for scoring"] if len(filled) > 1 else []
    splits = {split: clips if split == SCORED else [] for split in SPLITS}
    return replace(corpus, splits=splits, score_range=NO_RANGE, unlabelled=True, remarks=(*corpus.remarks, *together))


def with_folders(options: Options, source: Path | None) -> Options:
    """Use the folders audio/ and vision/ of a source as its features, or the source itself if it has such a name."""
    if source is None or not source.is_dir():
        return options
    folders = [source / name for name in FRAME_MODALITIES] if source.name not in FRAME_MODALITIES else [source]
    found = {folder.name: folder for folder in folders if holds_clips(folder)}
    return replace(options, overrides={**found, **options.overrides})


def read_features_alone(options: Options, request: Request) -> Corpus:
    """Return the clips named in files of features, without texts; the frames are attached as for any source."""
    paths = {name: path for name, path in options.overrides.items() if name in FRAME_MODALITIES}
    return to_score([read_features(path, name, request) for name, path in paths.items()], request)
