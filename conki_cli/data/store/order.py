"""The order of the clips of a video: by the numbers in their ids, by stored start times, or by their rows.

Ids tell the order of a video if the clips' names differ only in their numbers ('7' and '12', 'part-3' and 'part-10',
'12.5-17.0'). Otherwise start times decide, which `conki prepare` stores as the column `order` if they contradict the
rows of the source; without them the rows of the source are the order.

Axes: N clips of a split.
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from conki_cli.data.store.records import ID_SEPARATOR, Sample, Utterances, video_of

Order = npt.NDArray[np.int64]
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def videos_in_order(clips: Utterances) -> list[list[int]]:
    """Return the rows of every video, each list in the order of the video."""
    return [_sorted(clips.ids, rows, clips.order) for rows in _rows_by_video(clips.ids)]


def order_of(samples: Sequence[Sample]) -> Order | None:
    """Return the order that start times give to clips whose ids do not tell it, [N]; None if the rows are that order.

    Clips of a video with a missing start keep the order of their rows.
    """
    ids, order = [sample.id for sample in samples], np.arange(len(samples), dtype=np.int64)
    for rows in _rows_by_video(ids):
        starts = [start for row in rows if (start := samples[row].start) is not None]
        if len(starts) == len(rows) and _numbers(ids, rows) is None:
            by_time = sorted(range(len(rows)), key=lambda place: starts[place])
            order[[rows[place] for place in by_time]] = rows
    return None if np.array_equal(order, np.arange(len(order))) else order


def _rows_by_video(ids: Sequence[str]) -> list[list[int]]:
    videos: dict[str, list[int]] = {}
    for row, name in enumerate(ids):
        videos.setdefault(video_of(name), []).append(row)
    return list(videos.values())


def _sorted(ids: Sequence[str], rows: list[int], order: Order | None) -> list[int]:
    numbers = _numbers(ids, rows)
    if numbers is not None:
        return [row for _, row in sorted(zip(numbers, rows, strict=True))]
    return rows if order is None else sorted(rows, key=lambda row: int(order[row]))


def _numbers(ids: Sequence[str], rows: Sequence[int]) -> list[tuple[float, ...]] | None:
    """Return the numbers in the clips' names; None if these do not tell an order."""
    names = [ids[row].rpartition(ID_SEPARATOR)[2] for row in rows]
    numbers = [tuple(float(number) for number in _NUMBER.findall(name)) for name in names]
    has_one_form = len({_NUMBER.sub("#", name) for name in names}) == 1
    return numbers if has_one_form and len(set(numbers)) == len(rows) else None
