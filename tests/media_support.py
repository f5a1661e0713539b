"""Small media files that tests make on the spot."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 16_000


def tone(seconds: float, pitch: float = 150.0, rate: int = RATE) -> np.ndarray:
    """Return a buzz with ten harmonics, [N]."""
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sum([np.cos(2 * np.pi * pitch * k * time) / k for k in range(1, 11)], axis=0) / 2.9


def picture(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Return a grey picture [H, W, 3] whose brightness is its number times 4."""
    return np.full((size[1], size[0], 3), min(255, 16 + 4 * number), dtype=np.uint8)


def write_media(
    path: Path,
    *,
    sound: np.ndarray | None = None,
    rate: int = RATE,
    channels: int = 1,
    pictures: list[np.ndarray] | None = None,
    times: list[float] | None = None,
    fps: int = 25,
    codec: str = "mpeg4",
    key_frames: int = 12,
    last: float = 0.0,
    late: float = 0.0,
    every: int = 1024,
) -> Path:
    """Write a file with sound [N] and pictures [H, W, 3].

    Args:
        path: the file; its name tells the container.
        sound: in -1 to 1.
        rate: samples of it per second.
        channels: of the sound, 1 or 2.
        pictures: all of one size.
        times: of the pictures, in seconds, where they are not regular.
        fps: of regular pictures.
        codec: of the pictures.
        key_frames: pictures from one key frame to the next.
        last: seconds that the last picture says it is shown; 0: what the container assumes.
        late: seconds after which the sound begins.
        every: samples from one frame of sound to the next, by their times; each has 1024.
    """
    with av.open(str(path), "w") as container:
        video = audio = None
        if pictures:
            video = container.add_stream(codec, rate=fps)
            video.height, video.width = pictures[0].shape[:2]
            video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            video.bit_rate, video.gop_size = 400_000, key_frames
            video.codec_context.time_base = Fraction(1, 1000)
        if sound is not None:
            kind = {".flac": "flac"}.get(path.suffix, "pcm_s16le" if path.suffix in (".wav", ".mkv", ".nut") else "aac")
            audio = container.add_stream(kind, rate=rate, layout="stereo" if channels == 2 else "mono")
        packets = []
        for number, values in enumerate(pictures or []):
            frame = av.VideoFrame.from_ndarray(values, format="rgb24")
            frame.pts, frame.time_base = round(1000 * (times[number] if times else number / fps)), Fraction(1, 1000)
            packets += video.encode(frame)
        if video is not None:
            packets += video.encode()
        if last:
            packets[-1].duration = round(last / packets[-1].time_base)
        container.mux(packets)
        if audio is not None:
            _write_sound(container, audio, sound, (rate, channels), (late, every))
    return path


def _write_sound(
    container: object, stream: object, sound: np.ndarray, kind: tuple[int, int], times: tuple[float, int]
) -> None:
    (rate, channels), (late, every) = kind, times
    for number, start in enumerate(range(0, len(sound), 1024)):
        part = (np.clip(sound[start : start + 1024], -1, 1) * 32767).astype(np.int16)
        values = np.repeat(part[None], channels, axis=0).T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(values, format="s16", layout="stereo" if channels == 2 else "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, round(late * rate) + number * every, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def turn_clockwise(path: Path) -> None:
    """Say in an mp4 that its pictures are to be shown turned by 90 degrees, as phones do."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4
    place = start + 4 + 20 + 8 + 8  # version, times and ids; reserved; layer to volume
    while struct.unpack(">i", content[place : place + 4])[0] != 0x10000:
        place += 4
    content[place : place + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(content)
