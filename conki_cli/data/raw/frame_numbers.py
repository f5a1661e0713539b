"""Frame numbers in the tables of programs that follow faces: the place of each frame, and the frames without a row."""

import math
from collections.abc import Iterable

from conki_cli.system.errors import SourceError

MOST_FRAMES = 2_000_000
"""12 hours at 30 frames a second are 1.3 million."""
_LONGEST_NUMBER = 15  # letters of a whole number that a float still holds


def places_of(frames: Iterable[str]) -> tuple[dict[str, int], int]:
    """Return the place of every frame in time, and the number of frames from the first to the last one.

    Frames that have no row keep their place: LibreFace writes none where it sees no face, nor does OpenFace for several
    faces. Programs may also skip every second frame, so the step between frames is the largest that fits all of them.
    Cells that are not whole numbers are counted in their order.

    Raises:
        SourceError: the numbers are too far apart; says so without the file's name.
    """
    names = list(dict.fromkeys(frames))
    numbers = [_whole(name) for name in names]
    whole = [number for number in numbers if number is not None]
    if not whole or len(set(whole)) < len(names):
        return {name: place for place, name in enumerate(names)}, len(names)
    first = min(whole)
    step = max(1, math.gcd(*(number - first for number in whole)))
    count = (max(whole) - first) // step + 1
    if count > MOST_FRAMES:
        raise SourceError(
            f"must have frame numbers without large gaps, found {first} to {max(whole)} in {len(names)} rows",
            advice="extract the clip again",
        )
    return {name: (number - first) // step for name, number in zip(names, whole, strict=True)}, count


def _whole(cell: str) -> int | None:
    if len(cell) > _LONGEST_NUMBER:
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None
