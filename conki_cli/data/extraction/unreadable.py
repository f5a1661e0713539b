"""Files that FFmpeg does not read: what they are, told by their first bytes, and what to do."""

from typing import IO

_HEAD = 4096
_PLAYLISTS = (b"#extm3u", b"ffconcat", b"[playlist]", b"<asx", b"<smil")
_PAGES = (b"<!doctype html", b"<html")
_MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})
_MOST_BOXES = 1000
_AGAIN = "download or copy it again"


def why_unreadable(stream: IO[bytes], reason: str) -> str:
    """Say what a file is that FFmpeg refused, and what to do, on one line and without its name.

    Args:
        stream: the file.
        reason: FFmpeg's own, for what nothing else explains.
    """
    stream.seek(0)
    head = stream.read(_HEAD)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_PLAYLISTS) or b"<mpd" in text[:500]:
        return (
            "a playlist, not a video: the files that it names are not opened, on purpose; name the video itself, or "
            "save it as one file first"
        )
    if text.startswith(_PAGES):
        return f"a web page, not a video: the download failed; {_AGAIN}"
    if not any(head):
        return f"it starts with zeros, so it was not copied to its end: {_AGAIN}"
    if head[4:8] in _MP4_BOXES:
        return _broken_mp4(stream, reason)
    if _is_text(head):
        return "text, not a video: name the video itself, or remove this file"
    return (
        f"not a video or sound that FFmpeg reads ({reason}): {_AGAIN} if it is damaged; convert it with ffmpeg if "
        "another program plays it"
    )


def _broken_mp4(stream: IO[bytes], reason: str) -> str:
    """Walk over the boxes of an MP4 or MOV: its index, moov, is missing or lies beyond the end."""
    size = stream.seek(0, 2)
    place = 0
    for _ in range(_MOST_BOXES):
        stream.seek(place)
        box = stream.read(16)
        if len(box) < 8:
            break
        length = int.from_bytes(box[:4], "big")
        if length == 1:
            length = int.from_bytes(box[8:16], "big")
        if box[4:8] == b"moov" and length and place + length <= size:
            return f"an MP4 that FFmpeg cannot read ({reason}): it is damaged; {_AGAIN}"
        if length < 8:
            break
        place += length
    return f"it is truncated: the index of an MP4 (moov) is missing, so no picture can be found in it; {_AGAIN}"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else a character is cut at the end
            return False
        text = head[: error.start].decode("utf-8")
    return all(sign.isprintable() or sign in "\r\n\t\f" for sign in text)
