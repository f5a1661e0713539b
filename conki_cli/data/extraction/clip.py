"""The features of one clip: decoded, extracted and written into a folder. Runs in a process that may be killed."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.decode import Picture, Seen, Span, has_pictures, has_sound, opened, pictures_of, sound_of
from conki_cli.data.extraction.encoders import FaceEncoder, SoundEncoder
from conki_cli.data.extraction.face_columns import columns_with
from conki_cli.data.extraction.face_models import find_face_models
from conki_cli.data.extraction.landmarks import FaceReader, Region
from conki_cli.data.extraction.pitch import RATE
from conki_cli.data.extraction.recipe import COVAREP, MESH, NONE, Recipe
from conki_cli.data.extraction.sound import Loudness, num_sound_frames, sound_features
from conki_cli.data.extraction.tracking import FaceRows, FaceTracker
from conki_cli.data.extraction.words import Transcriber
from conki_cli.system.errors import SourceError

AUDIO, VISION, SHOWN = "audio.npy", "vision.npy", "shown.npz"
Progress = Callable[[float], None]
"""Takes the seconds of the medium that were finished since the last call."""

_SOUND = "sound.f32"
_BELIEVED = 0.4  # presence of a face that is shown
_SHOWN_WIDTH = 480  # of pictures that a person looks at
_LOST_SHARE = 0.02  # of the declared pictures, that are missing without a warning: edit lists leave some out
_SMALL_SHARE = 0.5  # of the rows with a face, beyond which it is too small


@dataclass
class Result:
    """What was found in a clip, ready for JSON.

    Attributes:
        audio_frames: rows of `audio.npy`; 0: there is none.
        vision_frames: rows of `vision.npy`; 0: there is none.
        voiced_frames: of the sound.
        face_frames: rows with a face.
        seconds: the longer of sound and pictures.
        length: of the whole file, in seconds; 0: it does not say.
        warnings: what is worth a look, without the clip's name.
        words: text, start and stop of every word, where they were written down.
    """

    audio_frames: int = 0
    vision_frames: int = 0
    voiced_frames: int = 0
    face_frames: int = 0
    seconds: float = 0.0
    length: float = 0.0
    warnings: list[str] = field(default_factory=list)
    words: list[list[Any]] = field(default_factory=list)


class Extractors:
    """What a recipe needs, loaded once for many clips."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.words: Transcriber | None = None
        if recipe.transcribe is not None:
            self.words = Transcriber(recipe.transcribe)
        models = find_face_models(recipe.face_models) if recipe.vision != NONE else None
        self.faces = FaceReader(models) if models is not None else None
        self.num_columns = len(columns_with(models)) if models is not None else 0
        self.sound = SoundEncoder(recipe.audio) if recipe.audio not in (COVAREP, NONE) else None
        self.crops = FaceEncoder(recipe.vision) if recipe.vision not in (MESH, NONE) else None

    def extract(self, path: Path, span: Span, folder: Path, progress: Progress) -> Result:
        """Extract a clip into an empty folder.

        Raises:
            SourceError: the file cannot be decoded at all; says why and what to do, without its name.
        """
        result, seen = Result(), Seen(alive=lambda: progress(0.0))
        with opened(path) as container:
            sound, pictures = has_sound(container), has_pictures(container)
            result.length = max(0.0, (container.duration or 0) / 1e6)
        if not sound and not pictures:
            raise SourceError("no sound and no pictures that can be decoded", advice="convert it with ffmpeg")
        if self.words is not None:
            return self._written_down(path, span, folder, sound, progress)
        if self.recipe.audio == NONE and self.recipe.vision == NONE:
            result.seconds = _length_of(path, span, seen, progress)
            if not result.seconds:
                raise SourceError(_nothing(span, seen, result.length))
            return result
        wants_sound = self.recipe.audio != NONE or self.faces is not None
        heard = _decode_sound(path, span, folder / _SOUND, seen, progress) if sound and wants_sound else Heard()
        if self.recipe.audio != NONE:
            self._write_sound(folder, heard, result, progress)
        if self.faces is not None and pictures:
            self._write_faces(path, span, folder, heard, seen, result, progress)
        (folder / _SOUND).unlink(missing_ok=True)
        result.seconds = max(heard.samples / RATE, result.seconds)
        result.warnings += _warnings(self.recipe, span, sound, pictures, heard, seen, result)
        wanted = (sound and self.recipe.audio != NONE) or (pictures and self.faces is not None)
        is_mute = pictures and self.faces is None and span.start < result.length and not seen.bad_packets
        if wanted and seen.pictures + seen.samples == 0 and not is_mute:
            raise SourceError(_nothing(span, seen, result.length))
        return result

    def show(self, path: Path, span: Span, rows: Sequence[int], folder: Path, progress: Progress) -> None:
        """Write the pictures of some rows, [n, H, W, 3], small, and the points of the face in each, [n, 468, 2].

        Points are nan where no face is found.

        Raises:
            SourceError: the file cannot be decoded at all.
        """
        assert self.faces is not None
        pictures, points = [], []
        with opened(path) as container:
            seen = Seen(alive=lambda: progress(0.0))
            for row, (_, picture) in enumerate(pictures_of(container, span, self.recipe.fps, seen)):
                progress(0.0)
                if row in rows:
                    step = max(1, picture.shape[1] // _SHOWN_WIDTH)
                    pictures.append(picture[::step, ::step])
                    points.append(self._points_in(picture) / step)
                if row >= max(rows):
                    break
        np.savez(folder / SHOWN, pictures=np.array(pictures), points=np.array(points))

    def _points_in(self, picture: Picture) -> npt.NDArray[np.float64]:
        """Return the points of the likeliest face, [468, 2]; nan where there is none."""
        assert self.faces is not None
        for region in self.faces.detect(picture):
            face = self.faces.read(picture, region)
            if face.presence >= _BELIEVED:
                return face.points[:, :2]
        return np.full((468, 2), np.nan)

    def _written_down(self, path: Path, span: Span, folder: Path, sound: bool, progress: Progress) -> Result:
        """Write down what is said; nothing else is extracted."""
        assert self.words is not None
        if not sound:
            return Result(warnings=["no sound in it, so there are no words"])
        result, seen = Result(), Seen()
        heard = _decode_sound(path, span, folder / _SOUND, seen, progress)
        words = self.words.words_of(folder / _SOUND, progress)
        (folder / _SOUND).unlink()
        result.seconds, result.words = heard.samples / RATE, [[word.text, word.start, word.stop] for word in words]
        result.warnings = _warnings(self.recipe, span, True, False, heard, seen, result)
        return result

    def _write_sound(self, folder: Path, heard: "Heard", result: Result, progress: Progress) -> None:
        sound, width = folder / _SOUND, 0
        frames = num_sound_frames(heard.samples) if self.sound is None else self.sound.num_frames(heard.samples)
        if not frames:
            return
        pieces = (
            sound_features(sound, heard.loudness.level, progress)
            if self.sound is None
            else self.sound.features(sound, progress)
        )
        with (folder / AUDIO).open("wb") as stream:
            for piece in pieces:
                if not width:
                    width = piece.shape[1]
                    _write_header(stream, (frames, width))
                stream.write(np.ascontiguousarray(piece, dtype="<f4").tobytes())
                result.voiced_frames += int(piece[:, 1].sum()) if self.sound is None else 0
        result.audio_frames = frames

    def _write_faces(
        self, path: Path, span: Span, folder: Path, heard: "Heard", seen: Seen, result: Result, progress: Progress
    ) -> None:
        assert self.faces is not None
        tracker = FaceTracker(self.faces, self.num_columns)
        times = array("d")
        with opened(path) as container:
            for time, picture in pictures_of(container, span, self.recipe.fps, seen):
                tracker.take(time, picture)
                progress(time - (times[-1] if times else 0.0))
                times.append(time)
        if not times:
            return
        rows = tracker.finished(heard.in_rows(np.array(times), self.recipe.fps))
        columns = rows.columns
        if self.crops is not None:
            with opened(path) as container:
                shown = pictures_of(container, span, self.recipe.fps, Seen(alive=seen.alive))
                columns = self.crops.rows(_with_regions(shown, rows, progress), len(times), progress)
        np.save(folder / VISION, np.ascontiguousarray(columns, dtype="<f4"))
        result.vision_frames = len(times)
        result.face_frames = int(rows.columns[:, -1].sum())
        result.seconds = times[-1] + (1 / self.recipe.fps if self.recipe.fps else 0.0)
        result.warnings += _of_faces(rows, result)


@dataclass
class Heard:
    """What was heard: samples in a file, their robust maximum, and the loudness of every 100 ms."""

    samples: int = 0
    loudness: Loudness = field(default_factory=Loudness)
    levels: "array[float]" = field(default_factory=lambda: array("f"))

    def in_rows(self, times: npt.NDArray[np.float64], fps: float | None) -> npt.NDArray[np.float64] | None:
        """Return the loudness in dB when the picture of every row is shown, [T]; None: there is no sound.

        Args:
            times: of the rows, in seconds.
            fps: rows per second: a row's picture is that in the middle of its time; None: its times are its pictures'.
        """
        if not self.samples or self.loudness.level == 0.0:
            return None
        levels = np.frombuffer(self.levels, dtype=np.float32)
        if not len(levels):
            return None
        middle = 0.5 / fps if fps else 0.0
        return np.interp(times + middle, (np.arange(len(levels)) + 0.5) / 10, levels.astype(np.float64))


def _with_regions(
    shown: Iterator[tuple[float, Picture]], rows: FaceRows, progress: Progress
) -> Iterator[tuple[Picture, Region | None]]:
    """Yield the picture of every row with the place of the face in it."""
    before = 0.0
    for (time, picture), region in zip(shown, rows.regions, strict=False):
        progress(time - before)
        before = time
        yield picture, region


def _length_of(path: Path, span: Span, seen: Seen, progress: Progress) -> float:
    """Return the seconds of a clip, from what its file says or, where it does not, by decoding it."""
    with opened(path) as container:
        if container.duration:
            return max(0.0, min(float(container.duration) / 1e6, span.stop) - span.start)
        if has_sound(container):
            for part in sound_of(container, span, seen):
                progress(len(part) / RATE)
            return seen.samples / RATE
        times = [time for time, _ in pictures_of(container, span, 10.0, seen)]
        return len(times) / 10.0


def _decode_sound(path: Path, span: Span, target: Path, seen: Seen, progress: Progress) -> Heard:
    """Write the sound of a clip as float32 at 16 kHz, and look at how loud it is."""
    heard, rest, told = Heard(), np.zeros(0, dtype=np.float32), 0
    with opened(path) as container, target.open("wb") as stream:
        for part in sound_of(container, span, seen):
            part = np.nan_to_num(part)
            stream.write(np.ascontiguousarray(part, dtype="=f4").tobytes())
            heard.samples += len(part)
            heard.loudness.take(part)
            rest = np.concatenate([rest, part])
            whole = len(rest) // (RATE // 10) * (RATE // 10)  # loudness is kept 10 times a second
            if whole:
                power = (rest[:whole].reshape(-1, RATE // 10) ** 2).mean(axis=1)
                heard.levels.extend(10 * np.log10(np.maximum(power, 1e-10)))
                rest = rest[whole:]
            if heard.samples - told >= RATE:
                progress((heard.samples - told) / RATE)
                told = heard.samples
    return heard


def _write_header(stream: Any, shape: tuple[int, int]) -> None:
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _of_faces(rows: FaceRows, result: Result) -> list[str]:
    if not result.face_frames:
        return ["no face was found in it"]
    found = []
    if rows.num_small > _SMALL_SHARE * result.face_frames:
        found.append(f"the face is too small in {rows.num_small} of {result.vision_frames} rows: its numbers are noise")
    if rows.num_faces > 1:
        found.append(
            f"{rows.num_faces} faces: in each row that one counts whose mouth moves with the sound, else the largest"
        )
    return found


def _nothing(span: Span, seen: Seen, length: float) -> str:
    """Say why a clip is empty."""
    if 0.0 < length <= span.start:
        return (
            f"start {span.start:g} s is after the end of the file, which lasts {length:.1f} s: correct the row of the "
            "label file"
        )
    return f"nothing in it can be decoded ({seen.bad_packets} bad packets): get the file again"


def _little_sound(span: Span, heard: Heard) -> str:
    if not heard.samples and not span.is_whole:
        return "no sound in this part"
    return f"too little sound ({heard.samples / RATE:.3f} s)"


def _warnings(
    recipe: Recipe, span: Span, sound: bool, pictures: bool, heard: Heard, seen: Seen, result: Result
) -> list[str]:
    """Say what is missing or damaged."""
    found = []
    if recipe.audio != NONE and not result.audio_frames:
        found.append(_little_sound(span, heard) if sound else "no sound in it")
    elif recipe.audio != NONE and heard.loudness.level == 0.0:
        found.append("its sound is silence")
    if recipe.vision != NONE and not result.vision_frames:
        found.append("no pictures in it" if not pictures else f"too few pictures ({seen.pictures})")
    lost = seen.declared_pictures - seen.pictures
    is_short = seen.declared_pictures and lost > _LOST_SHARE * seen.declared_pictures + 5
    if seen.bad_packets or (is_short and recipe.vision != NONE):
        counts = [f"{seen.pictures} of {seen.declared_pictures} pictures"] if seen.declared_pictures else []
        counts += [f"{seen.bad_packets} bad packets"] if seen.bad_packets else []
        found.append(f"damaged or incomplete: {', '.join(counts)}")
    return found + seen.warnings
