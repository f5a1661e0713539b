"""Raw data sets -> `Corpus`: find the file, detect its format from the content, and call the reader.

Formats are listed in `formats.py`.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from conki_cli.data.extraction.cache import EXTRACTED, Extraction
from conki_cli.data.raw.tables import LABEL_FILES, TABLE_SUFFIXES
from conki_cli.data.sources.columns import number_in
from conki_cli.data.sources.formats import KINDS, families, read_raw, recognise
from conki_cli.data.sources.request import Options, Progress, Request, no_progress
from conki_cli.data.sources.videos import holds_videos
from conki_cli.data.store.records import Corpus
from conki_cli.datasets import DATASETS, OFFICIAL, WHERE, folder_of, is_generated
from conki_cli.system.errors import SettingsError, SourceError, UnreadableError, one_line

_WITH_WORD_TIMES = ("csd", "multibench-hdf5")
"""The formats with a start and a stop for every word."""

_PATTERNS = (  # files with frames before files with only texts
    "Processed/unaligned_50.pkl",
    "Processed/unaligned_39.pkl",
    "Processed/*unaligned*.pkl",
    "Processed/aligned_50.pkl",
    "Processed/*.pkl",
    "train.pkl",  # with dev.pkl and test.pkl: read the folder
    "*.csd",  # read the folder
    "*.pkl",
    "*.hdf5",
    "*.npz",
    *LABEL_FILES,
)
_READ_AS_FOLDERS = ("train.pkl", "*.csd")

_ADVICE = f"{WHERE}; `conki prepare --list-formats` explains what is read"


def parse_score_range(text: str) -> tuple[float, float]:
    """Read a score range such as "-3..3".

    Raises:
        SettingsError: it is not two finite numbers, the lower first.
    """
    try:
        low, high = (math.nan if part.startswith(".") else number_in(part) for part in text.split(".."))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SettingsError(f"--score-range must be two numbers, the lower first, such as -3..3, found {text[:40]!r}")
    return low, high


def read_corpus(
    dataset: str,
    *,
    workspace: Path,
    source: Path | None,
    score_range: tuple[float, float] | None,
    options: Options | None = None,
    progress: Progress = no_progress,
) -> Corpus:
    """Read a data set, detecting the format of its file from the content.

    Args:
        dataset: a known name, or any other name for a user's own data.
        workspace: the folder with `data/`, which is searched if no source is given.
        source: a file, or a folder that is a source itself or has the MMSA layout.
        score_range: lowest and highest possible score; needed only for a user's own data with scores.
        options: further options for reading the source.
        progress: is notified of what was read.

    Returns:
        The corpus; big arrays stay in their files until they are read.

    Raises:
        SettingsError: the name, the range or an option cannot be used.
        SourceError: nothing was found, or the file cannot be read.
    """
    options = options or Options()
    bounds = _no_range(dataset, score_range) if options.unlabelled else _range_of(dataset, score_range)
    if is_generated(dataset):
        if source is not None or replace(options, extraction=None) != Options():
            raise SettingsError(
                f"--dataset {dataset} is generated", advice="leave out --source, or choose another name"
            )
        from conki_cli.data.sources.demo import GENERATED

        return GENERATED[dataset]()
    from conki_cli.data.sources.characters import with_repaired_texts

    options, path = _found(dataset, workspace, source, options)
    if options.labels is not None:
        _check_table(options.labels)
    replaced = frozenset(options.overrides)
    request = Request(
        dataset,
        bounds,
        labels=options.labels or (_labels_beside(path, source, options) if path is not None else None),
        text_column=options.text_column,
        align_words=options.align_words,
        prefers_english=options.prefers_english,
        replaced=replaced,
        unlabelled=options.unlabelled,
        extraction=options.extraction or Extraction(workspace / EXTRACTED),
        progress=progress,
    )
    corpus = _read_source(path, request, options)
    if path is not None:
        remarks = _said_of_labels(corpus.remarks, options) + _passed_over(path, request, source)
        corpus = replace(corpus, remarks=remarks)
    if options.overrides:
        from conki_cli.data.sources.overrides import override

        corpus = override(corpus, options.overrides, request, source=path)
    if options.unlabelled:
        from conki_cli.data.sources.unlabelled import without_labels

        corpus = without_labels(corpus)
    return with_repaired_texts(corpus)


def _found(dataset: str, workspace: Path, source: Path | None, options: Options) -> tuple[Options, Path | None]:
    """Return the file or folder to read; None if clips to be scored have only features."""
    if options.format == "videos":
        return options, source if source is not None else _folder_of(dataset, workspace)
    if not options.unlabelled:
        return options, find_source(dataset, workspace, source)
    from conki_cli.data.sources.unlabelled import with_folders

    options = with_folders(options, source)
    has_features = any(modality != "text" for modality in options.overrides)
    try:
        if source is None and has_features:
            return options, options.labels
        return options, find_source(dataset, workspace, source)
    except UnreadableError:
        raise
    except SourceError:
        if not has_features:
            raise
        return options, options.labels


def _read_source(path: Path | None, request: Request, options: Options) -> Corpus:
    if path is None:
        from conki_cli.data.sources.unlabelled import read_features_alone

        return read_features_alone(options, request)
    if "text" in request.replaced:
        request = replace(request, text_column=None, needs_texts=False)
    return with_official_name(_read(path, request, options.format))


def _check_table(path: Path) -> None:
    """Refuse a --labels file that cannot be a label file, even if none turns out to be needed."""
    from conki_cli.data.raw.opening import open_raw

    kind = open_raw(path).kind
    if kind != "table":
        raise SourceError(
            f"--labels must be a table such as label.csv, but {path} is {KINDS[kind]}", advice="name another file"
        )


def _said_of_labels(remarks: Iterable[str], options: Options) -> tuple[str, ...]:
    """Keep the remark that --labels was not needed only if the user gave it and nothing else could have needed it."""
    from conki_cli.data.sources.labels import LABELS_NOT_NEEDED

    is_true = options.labels is not None and not options.overrides
    return tuple(remark for remark in remarks if is_true or not remark.startswith(LABELS_NOT_NEEDED))


def _passed_over(path: Path, request: Request, source: Path | None) -> tuple[str, ...]:
    """Name files in the folder that could have been read instead of the one that was found."""
    if path.is_dir() or path == source:
        return ()
    found = {other for pattern in _PATTERNS for other in path.parent.glob(pattern.removeprefix("Processed/"))}
    others = ", ".join(sorted(one_line(other.name) for other in found - {path, request.labels}))
    return (f"read: {one_line(path.name)}; not read, although in the same folder: {others}",) if others else ()


def _labels_beside(path: Path, source: Path | None, options: Options) -> Path | None:
    """Return the label file if --labels was not given: that of --text, or one beside a source found below data/."""
    given = options.overrides.get("text")
    if given is not None and given.suffix in TABLE_SUFFIXES:
        return given
    if source is not None:
        return None
    folder = path if path.is_dir() else path.parent
    near = (place / name for place in (folder, folder.parent) for name in LABEL_FILES if name.startswith("label."))
    return next((labels for labels in near if labels.is_file() and labels != path), None)


def _read(path: Path, request: Request, format_name: str | None) -> Corpus:
    from conki_cli.data.raw.opening import open_raw

    known = {name: family for family in families() for name in family.FORMATS}
    if format_name is not None and format_name not in known:
        raise SettingsError(f"--format must be one of {', '.join(known)}; found {format_name[:40]!r}")
    raw = open_raw(path)
    name = format_name or recognise(raw)[0]
    if request.align_words and name is not None and name not in _WITH_WORD_TIMES:
        raise SourceError(
            f"--align words needs the times of words, which only CMU sequences have, but {path} has the format {name}",
            advice="leave it out",
        )
    return read_raw(raw, request) if format_name is None else known[format_name].read(raw, request, format_name)


def with_official_name(corpus: Corpus) -> Corpus:
    """Note if a file is one that MMSA publishes, by its SHA-256; warn if it belongs to another data set."""
    official = OFFICIAL.get(corpus.source_sha256[:8])
    if official is None:
        return corpus
    dataset, name = official
    said = f"probably MMSA's {name} of {dataset.folder}: its SHA-256 starts with {corpus.source_sha256[:8]}"
    if dataset.name == corpus.dataset:
        return replace(corpus, remarks=(said, *corpus.remarks))
    return replace(corpus, notes=(f"{said}, but it is prepared as {corpus.dataset}", *corpus.notes))


def check_dataset_name(dataset: str) -> None:
    """Refuse a name that is unsafe as the name of a file.

    Raises:
        SettingsError: it has characters other than letters, digits, - and _, or is empty or too long.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", dataset):
        raise SettingsError(
            f"a data set's name must be letters, digits, - and _ (64 at most), found {dataset[:80]!r}",
            advice="choose another",
        )


def _no_range(dataset: str, score_range: tuple[float, float] | None) -> tuple[float, float]:
    check_dataset_name(dataset)
    if score_range is not None:
        raise SettingsError("clips to be scored have no scores yet", advice="leave out --score-range")
    from conki_cli.data.sources.unlabelled import NO_RANGE

    return NO_RANGE


def _range_of(dataset: str, score_range: tuple[float, float] | None) -> tuple[float, float]:
    if dataset in DATASETS:
        known = DATASETS[dataset].score_range
        if score_range not in (None, known):
            raise SettingsError(
                f"{dataset} has scores from {known[0]:g} to {known[1]:g}",
                advice="leave out --score-range, or choose another name for other data",
            )
        return known
    check_dataset_name(dataset)
    if dataset.lower() in DATASETS:
        raise SettingsError(
            "names of data sets are lowercase", advice=f"use --dataset {dataset.lower()}, not {dataset}"
        )
    if score_range is None:
        raise SettingsError(
            f"{dataset} is not one of {', '.join(DATASETS)}: for your own data give the range of its scores, such as "
            "--score-range -3..3, or --unlabelled for clips to be scored"
        )
    return score_range


def _folder_of(dataset: str, workspace: Path) -> Path:
    return workspace / "data" / folder_of(dataset)


def find_source(dataset: str, workspace: Path, source: Path | None) -> Path:
    """Return the file or folder to read: the source itself, or the first match in it or below data/.

    Raises:
        SourceError: nothing was found.
    """
    if source is not None and not source.is_dir():
        if not source.exists():
            raise SourceError(f"there is no file {source}", advice="check --source")
        return source
    folder = source if source is not None else _folder_of(dataset, workspace)
    for pattern in _PATTERNS:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if found and pattern in LABEL_FILES and holds_videos(folder):
            return folder
        if found:
            return folder if pattern in _READ_AS_FOLDERS else found[0]
    if holds_videos(folder):
        return folder
    looked = ", ".join(_PATTERNS)
    raise SourceError(f"no data of {dataset} found; looked in {folder} for {looked}; {_ADVICE}")
