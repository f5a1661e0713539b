"""Find the clips of a data set in another file with one modality, as `joining.py` finds rows of labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conki_cli.data.sources.columns import whole_number
from conki_cli.data.sources.joining import NEARLY_ALL, SAME_SCORE, SCORES_AGREE, Clip, attempts, parts_of
from conki_cli.data.sources.label_rows import LabelRow
from conki_cli.data.store.records import ID_SEPARATOR
from conki_cli.system.errors import SourceError, names_of, one_line


@dataclass(frozen=True)
class Names:
    """The clips of a file by its own names.

    Attributes:
        where: the file's name in messages.
        scores: scores by id ('video$_$clip'); None if the file has none for the clip.
        are_positions: whether the file names them by position from 0, 'video[3]'.
    """

    where: str
    scores: Mapping[str, float | None]
    are_positions: bool = False


@dataclass(frozen=True)
class _Match:
    """The other file's ids by the data set's ids, the number of comparable scores, and the number of equal ones."""

    ids: dict[str, str]
    compared: int
    equal: int

    @property
    def agrees(self) -> bool:
        return self.compared > 0 and self.equal >= SCORES_AGREE * self.compared


def match(clips: Names, others: Names, what: str) -> tuple[dict[str, str], list[str], list[str]]:
    """Find the clips of a data set in another file, which may lack some of them.

    Equal ids are the same clip only if both files count in the same way. Equal scores prove that; without scores, equal
    forms of the ids or identical sets of ids do: clips counted from 0 and from 1 have different sets.

    Args:
        clips: the data set's.
        others: the file's.
        what: the modality, for messages.

    Returns:
        The file's ids by the data set's, notes, and remarks about how they were found.

    Raises:
        SourceError: fewer than half of the clips were found, or nothing proves that they are the same clips.
    """
    exact = _same_names(clips, others)
    has_half = 2 * len(exact.ids) >= len(clips.scores)
    if has_half and exact.agrees and len(exact.ids) >= NEARLY_ALL * min(len(clips.scores), len(others.scores)):
        return exact.ids, [], []
    if (found := _under_other_names(clips, others)) is not None:
        return found[0], [], [f"clips of {_file(others)} were found by {found[1]}"]
    is_same = len(exact.ids) == len(clips.scores) == len(others.scores)
    counts_alike = is_same or clips.are_positions == others.are_positions
    if has_half and (exact.agrees or (not exact.compared and counts_alike)):
        return exact.ids, [], []
    if is_same:
        note = f"{_file(others)} has the ids of {_file(clips)}, but of {exact.compared} scores "
        return exact.ids, [f"{note}only {exact.equal} are equal: check that it is the same data"], []
    raise SourceError(_refusal(clips, others, what, exact))


def _file(names: Names) -> str:
    return one_line(Path(names.where).name)


def _same_names(clips: Names, others: Names) -> _Match:
    """Find clips by the same id, else as 'video_clip' for 'video$_$clip', else as 11.0 for 11."""
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    whole = {_with_whole_number(name): name for name in others.scores}
    for clip in clips.scores:
        keys = (clip, clip.replace(ID_SEPARATOR, "_"))
        name = next((key for key in keys if key in others.scores), None)
        name = name or next((whole[key] for key in map(_with_whole_number, keys) if key in whole), None)
        if name is None:
            continue
        if name in owners:
            raise SourceError(
                f"{others.where}: {one_line(name)[:80]!r} may be {one_line(owners[name])[:80]!r} or "
                f"{one_line(clip)[:80]!r}",
                advice=f"use the whole id, with {ID_SEPARATOR} between video and clip",
            )
        owners[name] = clip
        found[clip] = name
    pairs = [(clips.scores[clip], others.scores[name]) for clip, name in found.items()]
    differences = [abs(one - other) for one, other in pairs if one is not None and other is not None]
    return _Match(found, len(differences), sum(difference <= SAME_SCORE for difference in differences))


def _with_whole_number(name: str) -> str:
    """Write 'video$_$11.0' and 'video_11.0', as spreadsheets and data frames make them, with 11."""
    separator = ID_SEPARATOR if ID_SEPARATOR in name else "_"
    video, found, clip = name.rpartition(separator)
    return video + found + whole_number(clip)


def _under_other_names(clips: Names, others: Names) -> tuple[dict[str, str], str] | None:
    """Find clips by any way of joining that the scores prove; return the file's ids by ours, and the way."""
    # Positions count the clips of the side that has the complete video, which may be either.
    for asking, answering in ((others, clips), (clips, others)):
        rows = [LabelRow(*parts_of(name), score=score) for name, score in answering.scores.items()]
        videos = {row.video for row in rows}
        asked = [Clip(name, score) for name, score in asking.scores.items() if parts_of(name)[0] in videos]
        if 2 * len(asked) < len(clips.scores):
            continue
        for attempt in attempts(asked, rows):
            if not attempt.fits or attempt.agreement is None:
                continue
            pairs = [(clip.id, row) for clip, row in zip(asked, attempt.found, strict=True) if row is not None]
            found = {name: row.id if row.clip else row.video for name, row in pairs}
            if 2 * len(found) >= len(clips.scores):
                ids = found if asking is clips else {ours: its for its, ours in found.items()}
                return ids, f"{attempt.way}; {attempt.agreement:.1%} of the scores are equal"
    return None


def _refusal(clips: Names, others: Names, what: str, exact: _Match) -> str:
    found = f"{len(exact.ids)} of {len(clips.scores)}"
    head = f"{others.where} must have {what} of the clips of {clips.where}"
    if 2 * len(exact.ids) >= len(clips.scores) and exact.compared:
        return (
            f"{head}; {found} have the same id, but only {exact.equal} of {exact.compared} of them the same score: "
            "these are other clips, or they are counted differently"
        )
    if clips.are_positions != others.are_positions and not exact.compared:
        one, other = (clips, others) if clips.are_positions else (others, clips)
        labels = ", or --labels label.csv" if one is clips else ""
        return (
            f"{head}, but ids are counted differently: 'video[3]' in {one.where} is a position, from 0, {other.where} "
            f"has names of its own; scores are needed to tell which are the same: give a file with scores{labels}"
        )
    return (
        f"{head}, found it for {found}; at least half of the clips must be found: its ids are "
        f"{names_of(list(others.scores)[:3])}, ..., the clips' {names_of(list(clips.scores)[:3])}, ..."
    )
