"""Sound and pictures of a media file, by time: nothing but the file itself is read, and nothing grows with its length.

Only a process of its own may call this on a file of others: the decoders are C code, and a broken file may crash them
or keep them busy for ever. Times are seconds from the start of the file, or of the clip where a part of it is asked
for.

Axes: N samples; H, W rows and columns of a picture.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.libraries import library
from conki_cli.data.extraction.pitch import RATE
from conki_cli.data.extraction.sound_times import WORTH_SAYING, seconds_of, timed
from conki_cli.data.extraction.unreadable import why_unreadable
from conki_cli.system.errors import SourceError, one_line, reason_of

Picture = npt.NDArray[np.uint8]  # [H, W, 3], red green blue
Samples = npt.NDArray[np.float32]  # [N]

MOST_SECONDS = 12 * 3600.0
"""Longer media are refused: somebody must have mistaken something."""
_MOST_PIXELS = 8192 * 8192
_MOST_STREAMS = 64
_LARGEST_SIDE = 1280  # of pictures that are handed on; larger ones are scaled down
_MOST_GAP = 600.0  # seconds without a picture or a sound that are believed
_MOST_DRIFT = 0.05  # seconds by which sound and its times may differ, before it is filled up or left out
_REORDERED = 10.0  # seconds by which a frame may be decoded before it is shown
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,mpegvideo,ogg,wav,w64,aiff,au,caf,amr,mp3,flac,aac,"
    "ac3,eac3,rm,mxf,dv,ivf,h264,hevc,m4v,gif,opus,nut"
)
"""The containers that are read: those that hold their media themselves. Playlists name other files."""


@dataclass
class Seen:
    """What was counted while a file was decoded."""

    bad_packets: int = 0
    pictures: int = 0
    declared_pictures: int = 0
    """Of the container; 0 where it does not say, and for a part of a file."""
    samples: int = 0
    warnings: list[str] = field(default_factory=list)
    alive: Callable[[], None] = lambda: None
    """Called while pictures before the clip are decoded, which finishes nothing of it."""


@dataclass(frozen=True)
class Span:
    """The part of a file that is a clip, in seconds; `stop` may be infinite."""

    start: float = 0.0
    stop: float = math.inf

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole file."""
        return self.start == 0.0 and math.isinf(self.stop)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a media file as a PyAV container.

    Raises:
        SourceError: it is not a medium, is of a kind that may lead elsewhere, or declares what cannot be.
    """
    av = library("av")
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none", "enable_drefs": "0"}
    with path.open("rb") as stream:
        if not stream.read(1):
            raise SourceError("the file is empty", advice="copy or download it again")
        stream.seek(0)
        try:
            container = av.open(stream, mode="r", container_options=options, io_open=_refused)
        except (av.error.FFmpegError, ValueError, OSError) as error:
            reason = one_line(getattr(error, "strerror", None) or reason_of(error))
            raise SourceError(why_unreadable(stream, reason)) from error
        with container:
            if not len(container.streams):
                raise SourceError(why_unreadable(stream, "no streams"))
            _check(container)
            yield container


def _refused(url: str, flags: int, options: dict[str, Any]) -> Any:
    """Open nothing: a medium must hold all that belongs to it."""
    raise PermissionError(f"it names another file ({url[:60]})")


def _check(container: Any) -> None:
    if len(container.streams) > _MOST_STREAMS:
        raise SourceError(
            f"it must have {_MOST_STREAMS} streams at most, found {len(container.streams)}",
            advice="convert it with one of each",
        )
    for stream in container.streams.video:
        width, height = (int(getattr(stream.codec_context, side, 0) or 0) for side in ("width", "height"))
        _check_size(width, height)
    seconds = (container.duration or 0) / 1e6
    if seconds > MOST_SECONDS:
        raise SourceError(
            f"it must last {MOST_SECONDS / 3600:.0f} hours at most, found {seconds / 3600:.0f}", advice="cut it"
        )


def _check_size(width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        raise SourceError(
            f"pictures must have {_MOST_PIXELS / 1e6:.0f} megapixels at most, found {width}x{height}",
            advice="scale it",
        )


def has_sound(container: Any) -> bool:
    """Tell whether there is a stream of sound that can be decoded."""
    return any(_can_decode(stream) for stream in container.streams.audio)


def has_pictures(container: Any) -> bool:
    """Tell whether there is a stream of pictures, not only a cover, that can be decoded."""
    return any(_can_decode(stream) and not _is_cover(stream) for stream in container.streams.video)


def _can_decode(stream: Any) -> bool:
    return stream.codec_context is not None and bool(stream.codec_context.name)


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in str(getattr(stream, "disposition", ""))


def sound_of(container: Any, span: Span, seen: Seen) -> Iterator[Samples]:
    """Yield the sound of a clip as 16 kHz mono, a few samples at a time.

    Time stamps decide: times without sound are silent, and sound for times that had some already is left out.

    Raises:
        SourceError: its times or its format make no sense.
    """
    stream = next(stream for stream in container.streams.audio if _can_decode(stream))
    cut, mixer = _Cut(span, seen), _Mixer()
    next_time: float | None = None
    frames, zero = _frames_from(container, stream, span, seen), _zero_of(container) + span.start
    for time, frame in timed(frames, zero, -span.start, seen.warnings):
        if next_time is None:
            if time >= span.stop - span.start:  # it begins after the clip
                return
            if math.isinf(span.stop) and time > _MOST_GAP:
                raise SourceError(
                    f"sound must begin within {_MOST_GAP:.0f} seconds of the start, found {time:.0f}",
                    advice="convert it again from the original",
                )
            yield from cut.begin(time)
            next_time = time
        elif abs(time - next_time) > _MOST_DRIFT:
            yield from cut.passed(mixer.rest())
            yield from cut.jumped(time - next_time)
            next_time = time
        next_time += seconds_of(frame)
        yield from cut.passed(mixer.mixed(frame))
        if cut.is_full:
            break
    yield from cut.passed(mixer.rest())


class _Mixer:
    """Frames of any rate and layout become 16 kHz mono; a change of format begins a new resampler."""

    def __init__(self) -> None:
        self._resampler: Any = None
        self._format: tuple[Any, ...] = ()

    def mixed(self, frame: Any) -> list[Samples]:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        rest = self.rest() if kind != self._format else []
        if self._resampler is None:
            self._resampler = library("av").AudioResampler(format="flt", layout="mono", rate=RATE)
            self._format = kind
        frame.pts = None  # times are looked after by the caller
        return rest + [part.to_ndarray()[0] for part in self._resampler.resample(frame)]

    def rest(self) -> list[Samples]:
        """Return what is still on its way, and forget the resampler."""
        if self._resampler is None:
            return []
        resampler, self._resampler, self._format = self._resampler, None, ()
        return [part.to_ndarray()[0] for part in resampler.resample(None)]


class _Cut:
    """Keeps the samples between start and stop, counted from the first sample that is seen."""

    def __init__(self, span: Span, seen: Seen) -> None:
        self._most = math.inf if math.isinf(span.stop) else round((span.stop - span.start) * RATE)
        self._most = min(self._most, MOST_SECONDS * RATE)
        self._place = 0  # of the next sample, negative before the clip begins
        self._repeated = 0  # samples to come for times that had some already
        self._seen = seen

    @property
    def is_full(self) -> bool:
        return self._place >= self._most

    def begin(self, time: float) -> Iterator[Samples]:
        """Start with sound that begins at a time, which may lie before the clip."""
        if time > 0:
            yield from self.silence(round(time * RATE))
        else:
            self._place = round(time * RATE)

    def jumped(self, seconds: float) -> Iterator[Samples]:
        """Follow times that go forward or back.

        Raises:
            SourceError: they go forward too far to be believed.
        """
        if seconds > _MOST_GAP:
            raise SourceError(f"its times jump by {seconds:.0f} seconds", advice="convert it again from the original")
        missing = round(seconds * RATE) - self._repeated
        self._repeated = max(0, -missing)
        if seconds < -WORTH_SAYING and not any("times go back" in line for line in self._seen.warnings):
            self._seen.warnings.append(
                f"its times go back by {-seconds:.1f} s: sound for times that were read before is left out"
            )
        yield from self.silence(missing)

    def silence(self, num_samples: int) -> Iterator[Samples]:
        left = num_samples
        while left > 0 and not self.is_full:
            block = min(left, RATE)
            yield from self.passed([np.zeros(block, dtype=np.float32)])
            left -= block

    def passed(self, parts: list[Samples]) -> Iterator[Samples]:
        for part in parts:
            part, self._repeated = part[self._repeated :], max(0, self._repeated - len(part))
            first = max(0, -self._place)
            last = int(min(len(part), self._most - self._place))
            self._place += len(part)
            if last > first:
                self._seen.samples += last - first
                yield part[first:last]


def pictures_of(container: Any, span: Span, fps: float | None, seen: Seen) -> Iterator[tuple[float, Picture]]:
    """Yield a picture for every row of the clip, upright: that which is shown in the middle of the row's time.

    Rows before the first picture of the file are black.

    Args:
        container: an open file.
        span: the clip in it.
        fps: rows per second; None: one row per picture of the file.
        seen: takes the counts.

    Yields:
        The row's time, and the picture; the same object again where it stays.

    Raises:
        SourceError: its times or its sizes make no sense.
    """
    stream = next(stream for stream in container.streams.video if _can_decode(stream) and not _is_cover(stream))
    seen.declared_pictures = int(stream.frames or 0) if span.is_whole else 0
    zero = _zero_of(container)
    usual = 1.0 / float(stream.average_rate or stream.guessed_rate or 25)
    length = span.stop - span.start
    row, shown, time, end = 0, None, -usual - span.start, 0.0
    for frame in _frames_from(container, stream, span, seen):
        before, time = time, _time_of(frame, time + usual, zero + span.start)
        end = _end_of(frame, time, usual, container, span)
        seen.pictures += time >= 0
        if time < 0:
            seen.alive()
        if time >= length:
            break
        if fps is None:
            if time >= 0:
                yield time, upright(frame)
            continue
        if (gap := time - max(before, -usual)) > _MOST_GAP:
            raise SourceError(f"its times jump by {gap:.0f} seconds", advice="convert it again from the original")
        while (row + 0.5) / fps < time:  # the picture before is shown until now; before the first one all is black
            shown = shown or [np.zeros_like(upright(frame))]
            yield row / fps, _picture(shown)
            row += 1
        shown = [frame]
    while fps is not None and shown is not None and (row + 0.5) / fps < min(end, length, MOST_SECONDS):
        seen.pictures = max(1, seen.pictures)  # also one that is shown since before the clip
        yield row / fps, _picture(shown)
        row += 1


def _picture(shown: list[Any]) -> Picture:
    """Return the picture of a frame, and keep it in its place: it may be asked for again."""
    if not isinstance(shown[0], np.ndarray):
        shown[0] = upright(shown[0])
    picture: Picture = shown[0]
    return picture


def _time_of(frame: Any, otherwise: float, zero: float) -> float:
    """Return a frame's time, `otherwise` if it is missing or no number; times that go back are not changed."""
    time = otherwise if frame.time is None else float(frame.time) - zero
    return time if math.isfinite(time) else otherwise


def _end_of(frame: Any, time: float, usual: float, container: Any, span: Span) -> float:
    """Return until when a frame is shown if none comes after it: for as long as it says, within the file."""
    said = float((frame.duration or 0) * (frame.time_base or 0))
    file_end = (container.duration or 0) / 1e6 - span.start
    return max(time + usual, min(time + min(said, _MOST_GAP), file_end))


def upright(frame: Any) -> Picture:
    """Return a frame as [H, W, 3], turned as its file says, with square pixels, of at most 1280 pixels a side."""
    _check_size(frame.width, frame.height)
    ratio = float(getattr(frame, "sample_aspect_ratio", None) or 1.0)
    width = frame.width * (ratio if 0.1 < ratio < 10 else 1.0)
    scale = min(1.0, _LARGEST_SIDE / max(width, frame.height))
    size = {"width": max(1, round(width * scale)), "height": max(1, round(frame.height * scale))}
    picture = frame.reformat(format="rgb24", **size).to_ndarray()
    turns = round(float(getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else np.ascontiguousarray(picture)


def _zero_of(container: Any) -> float:
    return (container.start_time or 0) / 1e6


def _frames_from(container: Any, stream: Any, span: Span, seen: Seen) -> Iterator[Any]:
    """Yield the frames of a stream from a second before the clip or earlier.

    Some containers, such as MPEG-TS, can be entered anywhere, and nothing is decoded there until the next frame that
    does not depend on others, or pictures are decoded that lack what they depend on. If the first is none before the
    clip, or a picture that depends on others, the file is entered further and further before it. Frames without times
    are counted, so these are read from the start of the file.
    """
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    zero, unit = _zero_of(container), float(stream.time_base)
    before, bad_packets = 1.0, seen.bad_packets
    while before < span.start:
        frames: Iterator[Any] = iter(())
        if _is_entered(container, (span.start - before + zero) / unit, stream=stream):
            frames = _decoded(container, stream, seen)
        first = next(frames, None)
        seen.bad_packets = bad_packets  # what depends on frames before the entry cannot be decoded, and need not
        if first is not None and first.time is not None and first.time - zero <= span.start and _stands_alone(first):
            yield first
            yield from frames
            return
        before *= 2
    if span.start > 1.0 and not (
        _is_entered(container, (zero - _REORDERED) / unit, stream=stream)
        or _is_entered(container, stream.start_time or 0, stream=stream)
    ):
        _is_entered(container, 0, unsupported_byte_offset=True)
    yield from _decoded(container, stream, seen)


def _stands_alone(frame: Any) -> bool:
    """Tell whether a frame needs none before it: one of sound, or a key frame."""
    return not isinstance(frame, library("av").VideoFrame) or bool(frame.key_frame)


def _is_entered(container: Any, place: float, **options: Any) -> bool:
    """Go to a frame at or before a place; False: the container has none or cannot go there."""
    try:
        container.seek(math.floor(place), backward=True, **options)
    except (library("av").error.FFmpegError, OverflowError):  # or a place that no file has
        return False
    return True


def _decoded(container: Any, stream: Any, seen: Seen) -> Iterator[Any]:
    """Yield the frames of a stream; packets that cannot be decoded are counted and passed over."""
    av = library("av")
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the file ends in the middle of something
            seen.bad_packets += 1
            packet = None
        try:
            frames = stream.codec_context.decode(packet) if packet is None else packet.decode()
        except av.error.EOFError:
            frames = []
        except (av.error.FFmpegError, ValueError):
            seen.bad_packets += 1
            frames = []
        yield from frames
        if packet is None:
            return
