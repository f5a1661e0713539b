"""Raw data sets -> `Corpus`: finds the file, recognises its format from its content, and calls the reader."""

import math
import re
from pathlib import Path

from conki_cli.errors import SettingsError, SourceError
from conki_cli.store import Corpus

KNOWN_RANGES: dict[str, tuple[float, float]] = {
    "mosi": (-3, 3),
    "mosei": (-3, 3),
    "sims": (-1, 1),
    "demo": (-3, 3),
    "demo-external": (-3, 3),
}
"""Lowest and highest score of the data sets that conki knows by name."""

_PUBLISHED_FILES = {  # below data/<NAME>/ in the folder layout of MMSA; frames before texts alone
    "mosi": ("Processed/unaligned_50.pkl", "Processed/aligned_50.pkl", "label.csv"),
    "mosei": ("Processed/unaligned_50.pkl", "Processed/aligned_50.pkl", "label.csv"),
    "sims": ("Processed/unaligned_39.pkl", "label.csv"),
}
_OWN_FILES = ("Processed/unaligned*.pkl", "Processed/aligned*.pkl", "Processed/*.pkl", "label.csv")

_ACCEPTED = "MMSA feature pickles and label.csv"
_ADVICE = (
    f"{_ACCEPTED} are read; the files are linked from github.com/thuiar/MMSA (section Datasets), raw MOSI and MOSEI "
    "from github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK; put them there or name a file with --source"
)


def parse_score_range(text: str) -> tuple[float, float]:
    """Read a score range such as "-3..3".

    Raises:
        SettingsError: it is not two finite numbers, the lower first.
    """
    try:
        low, high = (float(part) for part in text.split(".."))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SettingsError(f"--score-range must be two numbers, the lower first, such as -3..3, found {text[:40]!r}")
    return low, high


def read_corpus(
    dataset: str, *, workspace: Path, source: Path | None, score_range: tuple[float, float] | None
) -> Corpus:
    """Read a data set, recognising the format of its file from the content.

    Args:
        dataset: a known name, or any other for a user's own data.
        workspace: the folder with `data/`, searched when no source is given.
        source: a file, or a folder in the MMSA layout.
        score_range: lowest and highest possible score; needed for a user's own data only.

    Raises:
        SettingsError: the name or the range cannot be used.
        SourceError: nothing was found, or the file cannot be read.
    """
    bounds = _range_of(dataset, score_range)
    if dataset in ("demo", "demo-external"):
        if source is not None:
            raise SettingsError(f"--dataset {dataset} is generated: leave --source out, or choose another name")
        from conki_cli.sources import demo

        return demo.demo_corpus() if dataset == "demo" else demo.demo_external_corpus()
    path = _find(dataset, workspace, source)
    if _format_of(path) == "pickle":
        from conki_cli.sources.mmsa import read_mmsa

        return read_mmsa(path, dataset, bounds)
    from conki_cli.sources.labels import read_labels

    return read_labels(path, dataset, bounds)


def check_dataset_name(dataset: str) -> None:
    """Refuse a name that is unsafe as the name of a file.

    Raises:
        SettingsError: it holds anything but letters, digits, - and _, or is empty or too long.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", dataset):
        raise SettingsError(
            f"a data set's name must be letters, digits, - and _ (64 at most), found {dataset[:80]!r}: choose another"
        )


def _range_of(dataset: str, score_range: tuple[float, float] | None) -> tuple[float, float]:
    known = KNOWN_RANGES.get(dataset)
    if known is not None:
        if score_range not in (None, known):
            raise SettingsError(
                f"{dataset} has scores from {known[0]:g} to {known[1]:g}: leave --score-range out, "
                "or choose another name for other data"
            )
        return known
    check_dataset_name(dataset)
    if dataset.lower() in KNOWN_RANGES:
        raise SettingsError(f"names of data sets are written small: use --dataset {dataset.lower()}, not {dataset}")
    if score_range is None:
        raise SettingsError(
            f"{dataset} is none of {', '.join(KNOWN_RANGES)}: for data of your own give the range of its scores, "
            "such as --score-range -3..3"
        )
    return score_range


def _find(dataset: str, workspace: Path, source: Path | None) -> Path:
    if source is not None and not source.is_dir():
        if not source.exists():
            raise SourceError(f"there is no file {source}: check --source")
        return source
    folder_name = dataset.upper() if dataset in _PUBLISHED_FILES else dataset
    folder = source if source is not None else workspace / "data" / folder_name
    patterns = _PUBLISHED_FILES.get(dataset, _OWN_FILES)
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if found:
            return found[0]
    looked = ", ".join(str(folder / pattern) for pattern in patterns)
    raise SourceError(f"no data of {dataset} found; looked for {looked}; {_ADVICE}")


def _format_of(path: Path) -> str:
    """Return "pickle" or "csv" from the first and last bytes of a file."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
            stream.seek(-min(len(head), 1), 2)
            last = stream.read(1)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise SourceError(f"{path} is empty: get the file again, whole")
    for magic, what in ((b"\x89HDF", "HDF5"), (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "gzip-compressed")):
        if head.startswith(magic):
            raise SourceError(f"{path} is {what}, which `conki prepare` does not read: {_ACCEPTED} are read")
    is_table = b"," in head.splitlines()[0] and b"\0" not in head
    # Pickles since protocol 2 start with 0x80, all end with a full stop, and older ones have no line of columns.
    return "pickle" if head[0] == 0x80 or (last == b"." and not is_table) else "csv"
