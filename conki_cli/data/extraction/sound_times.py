"""When the frames of a stream of sound are heard: by their time stamps, of which some may be wrong."""

from collections.abc import Iterator
from typing import Any

from conki_cli.system.errors import SourceError

WORTH_SAYING = 1.0
"""Seconds of sound that are left out or misplaced, beyond which it is said."""


def timed(frames: Iterator[Any], zero: float, start: float, warnings: list[str]) -> Iterator[tuple[float, Any]]:
    """Yield the time of every frame of sound, and the frame; those without times are counted.

    Times that jump forward are believed when those of a second of sound go on from there, or of all that is left, if
    that is more than one frame. Else they are wrong, and that sound follows the sound before it.
    """
    end: float | None = None  # of the sound that was yielded
    held: list[tuple[float, Any]] = []
    held_end = held_seconds = 0.0
    for frame in frames:
        seconds, counted = seconds_of(frame), held_end if held else end
        time = float(frame.time) - zero if frame.time is not None else start if counted is None else counted
        if held and time < held_end - WORTH_SAYING / 2:
            yield from _in_line(held, end or 0.0, warnings)
            end, held = (end or 0.0) + held_seconds, []
        if not held and (end is None or time - end <= WORTH_SAYING):
            yield time, frame
            end = time + seconds
            continue
        held_seconds = seconds + (held_seconds if held else 0.0)
        held, held_end = [*held, (time, frame)], time + seconds
        if len(held) > 1 and held_seconds >= WORTH_SAYING:
            yield from held
            end, held = held_end, []
    yield from held if len(held) > 1 else _in_line(held, end or 0.0, warnings)


def _in_line(held: list[tuple[float, Any]], end: float, warnings: list[str]) -> Iterator[tuple[float, Any]]:
    """Yield frames whose times are wrong, one after the other."""
    if held and not any("jump forward" in line for line in warnings):
        warnings.append(
            f"times of its sound jump forward by {held[0][0] - end:.1f} s, and those after them do not go on from "
            "there: that sound is read where the sound before it ends"
        )
    for _, frame in held:
        seconds = seconds_of(frame)
        yield end, frame
        end += seconds


def seconds_of(frame: Any) -> float:
    """Return how long the sound of a frame lasts.

    Raises:
        SourceError: its rate makes no sense.
    """
    if not 1 <= frame.sample_rate <= 768_000:
        raise SourceError(
            f"sound must have 1 to 768000 samples a second, found {frame.sample_rate}", advice="convert it"
        )
    return float(frame.samples / frame.sample_rate)
