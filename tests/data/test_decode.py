"""Sound and pictures of media files, whole, broken and hostile."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs the extra: pip install 'conki[video]'")

import av
from media_support import RATE, picture, tone, turn_clockwise, write_media

from conki_cli.data.extraction.decode import Seen, Span, has_pictures, has_sound, opened, pictures_of, sound_of
from conki_cli.system.errors import SourceError

WHOLE = Span()


def sound(path: Path, span: Span = WHOLE, seen: Seen | None = None) -> np.ndarray:
    with opened(path) as container:
        return np.concatenate([np.zeros(0, dtype=np.float32), *sound_of(container, span, seen or Seen())])


def pictures(path: Path, fps: float | None = 10.0, span: Span = WHOLE, seen: Seen | None = None) -> list[tuple]:
    with opened(path) as container:
        return list(pictures_of(container, span, fps, seen or Seen()))


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 2), (48_000, 2)])
def test_sound_of_any_rate_becomes_16_khz_mono(tmp_path: Path, rate: int, channels: int) -> None:
    path = write_media(tmp_path / "a.wav", sound=tone(1.0, rate=rate), rate=rate, channels=channels)
    found = sound(path)
    assert len(found) == pytest.approx(RATE, abs=20)
    expected = tone(1.0)[: len(found)]
    assert np.corrcoef(found[500:-500], expected[500 : len(found) - 500])[0, 1] > 0.999


def test_a_part_of_the_sound_is_the_same_as_in_the_whole(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.wav", sound=tone(4.0))
    assert np.array_equal(sound(path, Span(2.5, 3.0)), sound(path)[40_000:48_000])


def test_sound_whose_time_stamps_overlap_keeps_to_its_times(tmp_path: Path) -> None:
    levels = np.repeat(np.arange(100), 1024) / 200  # a frame every 976 samples: 6.1 s, with 6.4 s of samples
    path, seen = write_media(tmp_path / "a.mkv", sound=levels, every=976), Seen()
    found = sound(path, seen=seen)
    assert len(found) / RATE == pytest.approx((99 * 976 + 1024) / RATE, abs=0.06)
    for time in (1.0, 3.0, 5.5):
        assert found[round(time * RATE)] * 200 == pytest.approx(time * RATE / 976, abs=2)
        assert sound(path, Span(time, time + 0.1))[0] * 200 == pytest.approx(time * RATE / 976, abs=2)
    assert seen.warnings == []


def test_sound_whose_times_start_again_is_read_once_and_said(tmp_path: Path) -> None:
    path, seen = write_media(tmp_path / "a.ts", sound=tone(2.5)), Seen()
    once = len(sound(path))
    path.write_bytes(path.read_bytes() * 2)
    assert len(sound(path, seen=seen)) == pytest.approx(once, abs=1100)
    assert [line[:19] for line in seen.warnings] == ["its times go back b"]


def write_moved(path: Path, moves: dict[int, float], num_frames: int = 100) -> Path:
    """Write sound whose level tells the number of its frame, of 1024 samples; times of some are moved by seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for number in range(num_frames):
            values = np.full((1, 1024), (number + 1) * 100, dtype=np.int16)
            frame = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
            frame.rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = number * 1024
            for packet in stream.encode(frame):
                packet.pts += round(
                    moves.get(number, 0.0) / packet.time_base
                )  # that it is decoded in order is not changed
                container.mux(packet)
    return path


@pytest.mark.parametrize("wrong", [range(40, 41), range(40, 48), range(99, 100)], ids=["one", "half a second", "last"])
@pytest.mark.parametrize("seconds", [300.0, 5000.0])
def test_sound_whose_time_is_wrong_once_loses_nothing(tmp_path: Path, wrong: range, seconds: float) -> None:
    path, seen = write_moved(tmp_path / "a.mkv", dict.fromkeys(wrong, seconds)), Seen()
    found = sound(path, seen=seen)
    assert np.array_equal(np.round(found * 32768), np.repeat(np.arange(1, 101) * 100, 1024))
    assert [line.split(" s, ")[0] for line in seen.warnings] == [f"times of its sound jump forward by {seconds:.1f}"]


def test_sound_that_goes_on_after_a_pause_keeps_its_times(tmp_path: Path) -> None:
    path, seen = write_moved(tmp_path / "a.mkv", dict.fromkeys(range(97, 100), 5.0)), Seen()
    found = np.round(sound(path, seen=seen) * 32768)
    assert len(found) == pytest.approx(100 * 1024 + 5 * RATE, abs=20)
    assert set(found[-3000:]) == {9800.0, 9900.0, 10000.0}
    assert seen.warnings == []


@pytest.mark.parametrize("late", [0.04, 0.4])
def test_sound_that_begins_late_begins_with_silence(tmp_path: Path, late: float) -> None:
    path = write_media(tmp_path / "a.mkv", sound=np.full(RATE, 0.5), late=late, pictures=[picture(1)] * 30)
    assert int(np.flatnonzero(sound(path) > 0.3)[0]) == pytest.approx(late * RATE, abs=20)
    assert len(sound(path, Span(0.0, 0.2))) == (0 if late > 0.2 else 0.2 * RATE)


def test_sound_that_begins_minutes_after_the_pictures_is_believed(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", sound=tone(1.0), late=700.0, pictures=[picture(1)], times=[0.0])
    assert len(sound(path, Span(0.0, 10.0))) == 0
    found = sound(path, Span(699.0, 701.5))
    assert np.flatnonzero(np.abs(found) > 0.1)[0] == pytest.approx(RATE, abs=100)


def test_the_sound_of_a_whole_file_begins_within_ten_minutes(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", sound=tone(1.0), late=39_610.0, pictures=[picture(1)], times=[0.0])
    with pytest.raises(SourceError, match=r"sound must begin within 600 seconds .* found 39610: convert it again"):
        sound(path)


def test_pictures_are_those_shown_in_the_middle_of_each_row(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", pictures=[picture(n) for n in range(50)])
    found = pictures(path, 10.0)
    assert [time for time, _ in found] == pytest.approx([k / 10 for k in range(20)])
    shown = [(int(values.mean()) - 16) / 4 for _, values in found]
    assert shown == pytest.approx([int((k + 0.5) / 10 * 25) for k in range(20)], abs=0.6)


def test_pictures_at_irregular_times_come_at_their_times(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", pictures=[picture(0), picture(40), picture(20)], times=[0.0, 1.0, 1.2])
    shown = [round((int(values.mean()) - 16) / 4 / 20) for _, values in pictures(path, 10.0)]
    assert shown[:12] == [0] * 10 + [2, 2]
    assert set(shown[12:]) <= {1}


def test_rows_before_the_first_picture_are_black(tmp_path: Path) -> None:
    shown = [picture(40), picture(40)]
    path = write_media(tmp_path / "a.mkv", sound=tone(2.0), pictures=shown, times=[1.0, 1.5])
    found = pictures(path, 10.0)
    assert [time for time, _ in found[:12]] == pytest.approx([k / 10 for k in range(12)])
    assert [round(values.mean()) > 100 for _, values in found[:12]] == [False] * 10 + [True] * 2


@pytest.mark.parametrize("start", [2.25, 4.45])
def test_a_part_of_a_transport_stream_has_its_pictures_though_it_is_entered_between_key_frames(
    tmp_path: Path, start: float
) -> None:
    shown = [picture(n // 25 * 8) for n in range(150)]
    path = write_media(tmp_path / "a.ts", pictures=shown, codec="libx264", key_frames=75)
    seen = Seen()
    found = [values.mean() for _, values in pictures(path, 5.0, Span(start, start + 1.0), seen)]
    assert found == pytest.approx([16 + 32 * int(start + (k + 0.5) / 5) for k in range(5)], abs=6)
    assert seen.bad_packets == 0


def test_a_part_of_mpeg_4_in_a_transport_stream_is_entered_at_a_key_frame(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    still = np.kron(noise, np.ones((8, 8, 1), dtype=np.uint8))  # one picture for 6 s, of which only changes are stored
    path = write_media(tmp_path / "a.ts", pictures=[still] * 150, codec="mpeg4", key_frames=75)
    for start in (2.25, 4.45):
        found = [values for _, values in pictures(path, 5.0, Span(start, start + 1.0))]
        assert len(found) == 5
        assert all(np.abs(values.astype(int) - still).mean() < 30 for values in found)


def test_a_part_of_a_stream_without_times_is_counted_from_its_start(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.h264", pictures=[picture(n // 25 * 8) for n in range(150)], codec="libx264")
    found = [values.mean() for _, values in pictures(path, 5.0, Span(3.45, 4.45))]
    assert found == pytest.approx([16 + 32 * int(3.45 + (k + 0.5) / 5) for k in range(5)], abs=6)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "flv"])
def test_a_part_that_begins_before_the_first_picture_is_black_until_it(tmp_path: Path, kind: str) -> None:
    shown = [picture(40)] * 10
    path = write_media(tmp_path / f"a.{kind}", sound=tone(3.5, rate=44_100), rate=44_100, codec="libx264",
                       pictures=shown, times=[3 + k / 10 for k in range(10)])  # fmt: skip
    found = [round(values.mean()) > 100 for _, values in pictures(path, 5.0, Span(1.8, 3.5))]
    assert found == pytest.approx([False] * 6 + [True] * 2)


def test_the_last_picture_is_shown_as_long_as_it_says(tmp_path: Path) -> None:
    shown = [picture(n) for n in range(26)]
    path = write_media(tmp_path / "a.mp4", sound=tone(3.0), pictures=shown, last=2.0)
    assert len(pictures(path, 10.0)) == 30
    seen = Seen()
    assert len(pictures(path, 10.0, Span(2.0, 2.5), seen)) == 5
    assert seen.pictures == 1


def test_the_videos_own_rate_gives_every_picture(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", pictures=[picture(n) for n in range(7)])
    assert len(pictures(path, None)) == 7


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    bright_top = np.full((48, 64, 3), 20, dtype=np.uint8)
    bright_top[:24] = 230
    path = write_media(tmp_path / "a.mp4", pictures=[bright_top] * 10)
    turn_clockwise(path)
    _, found = pictures(path)[0]
    assert found.shape == (64, 48, 3)
    assert found[:, 30:].mean() > 150 > found[:, :18].mean()


def test_large_pictures_are_scaled_down(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", pictures=[picture(5, (1600, 900))] * 4)
    assert pictures(path)[0][1].shape == (720, 1280, 3)


def test_a_truncated_file_gives_what_it_has_and_counts(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (100, 48, 64, 3), dtype=np.uint8)
    path = write_media(tmp_path / "a.ts", pictures=list(noise), fps=25)
    whole = len(pictures(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert whole // 3 < len(pictures(path)) < whole * 2 // 3


def test_rotten_bytes_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", sound=np.random.default_rng(2).normal(size=RATE * 4) * 0.1)
    content, seen = bytearray(path.read_bytes()), Seen()
    start = content.index(b"mdat")
    for place in range(start + 4_000, start + 20_000, 1_500):
        content[place : place + 300] = b"\xff" * 300
    path.write_bytes(content)
    found = sound(path, seen=seen)
    assert np.isfinite(found).all()
    assert 0 < len(found) <= RATE * 5
    assert seen.bad_packets > 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hello, this is text\n" * 500, "text, not a video: name the video itself"),
        ("für alle\n".encode() * 409 + "aü".encode() * 20, "text, not a video"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page, not a video: the download failed"),
        (bytes(range(256)) * 40, "not a video or sound that FFmpeg reads .Invalid data .*: download or copy it again"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "a playlist, not a video: the files that"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "not opened, on purpose; name the video itself"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2\0\0\0\x08free", "the index of an MP4 .moov. is missing, .* again"),
        (b"\0" * 9000, "starts with zeros, so it was not copied to its end: download or copy it again"),
    ],
    ids=["empty", "text", "other text", "page", "garbage", "playlist", "concat", "no moov", "zeros"],
)
def test_what_is_no_medium_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=words) as error, opened(path):
        pass
    assert str(error.value).count("'") % 2 == 0
    assert str(path) not in str(error.value)


def test_a_video_cut_before_its_index_is_truncated_and_one_with_a_broken_index_is_damaged(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", pictures=[picture(n) for n in range(3)])
    whole = path.read_bytes()
    place = whole.index(b"moov")
    path.write_bytes(whole[: place + 40])
    with pytest.raises(SourceError, match="is truncated: the index of an MP4"), opened(path):
        pass
    length = int.from_bytes(whole[place - 4 : place], "big")
    path.write_bytes(whole[: place + 4] + b"\xff" * (length - 8) + whole[place - 4 + length :])
    with pytest.raises(SourceError, match=r"an MP4 that FFmpeg cannot read .*: it is damaged; download"), opened(path):
        pass


def test_a_playlist_opens_no_file_beside_it(tmp_path: Path) -> None:
    write_media(tmp_path / "secret.ts", sound=tone(1.0))
    for name, text in (
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n"),
        ("a.txt", "ffconcat version 1.0\nfile secret.ts\n"),
        ("a.sdp", "v=0\nm=audio 5004 RTP/AVP 0\nc=IN IP4 127.0.0.1\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(SourceError), opened(tmp_path / name):
            pass


def test_pictures_that_declare_an_enormous_size_are_not_decoded(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.avi", pictures=[picture(1)] * 3, codec="mjpeg")
    content = path.read_bytes()
    sizes, huge = (48).to_bytes(2, "big") + (64).to_bytes(2, "big"), (60_000).to_bytes(2, "big") * 2
    path.write_bytes(content.replace(b"\x08" + sizes, b"\x08" + huge))
    assert path.read_bytes() != content
    seen = Seen()
    assert pictures(path, seen=seen) == []
    assert seen.bad_packets == 3


def test_sound_alone_and_pictures_alone_are_told(tmp_path: Path) -> None:
    with opened(write_media(tmp_path / "a.wav", sound=tone(0.2))) as container:
        assert (has_sound(container), has_pictures(container)) == (True, False)
    with opened(write_media(tmp_path / "b.mp4", pictures=[picture(1)] * 5)) as container:
        assert (has_sound(container), has_pictures(container)) == (False, True)


def test_a_part_of_a_video_does_not_count_as_incomplete(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", pictures=[picture(n) for n in range(50)])
    seen = Seen()
    assert len(pictures(path, span=Span(0.5, 1.0), seen=seen)) == 5
    assert seen.declared_pictures == 0
