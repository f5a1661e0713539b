"""Known formats that are recognised and refused by name, each with the way to convert it.

Refused: MFN's HDF5 files (joined columns), bc-LSTM tuples, GCNet lists, MERTools label.npz, MATLAB files of a whole
data set (DeepCU) and of MATLAB 7.3, IEMOCAP (emotion classes, no score), archives and compressed files, torch.save
files, old spreadsheets, Arrow, JSON, single .npy arrays, videos and sounds, and failed downloads. Two target formats
fit everything:

    a pickle in MMSA's layout, {'train': {...}, 'valid': {...}, 'test': {...}} with the keys id ('video$_$clip'),
    raw_text, regression_labels, vision, audio, and vision_lengths, audio_lengths for real frames
    a label.csv (video_id, clip_id, text, label, mode), and with --vision and --audio folders of one .npy per clip
"""

from typing import Any

from conki_cli.data.raw.file import Raw
from conki_cli.data.raw.hdf5 import damage_in
from conki_cli.data.raw.refusals import AS_MMSA, MERTOOLS, mertools
from conki_cli.data.sources.clip_lists import is_clip_list
from conki_cli.data.sources.columns import plain_key, split_of

_EMOTIONS = {"happy", "sad", "angry", "neutral"}


def refusal(raw: Raw) -> str | None:
    """Say in one line why an opened file is not read, if its format is known but not supported."""
    if raw.kind == "pickle":
        reason = _reason_of_pickle(raw.content)
    elif raw.kind == "npz":
        reason = mertools() if MERTOOLS & set(raw.content) else None
    elif raw.kind == "hdf5":
        with damage_in(raw.path):
            reason = _reason_of_hdf5(raw.content)
    else:
        reason = None
    return None if reason is None else f"{raw.path} is {reason}"


def iemocap() -> str:
    """Describe IEMOCAP's files and what to do."""
    return (
        "IEMOCAP, which has emotion classes but not the sentiment scores that conki learns: take MOSI, MOSEI or SIMS, "
        f"or, with your own scores, {AS_MMSA}"
    )


def is_emotion_shape(shape: tuple[int, ...]) -> bool:
    """Say whether labels have IEMOCAP's shape: four emotions for each clip, each with a no and a yes or one number."""
    return shape[1:] in ((4, 2), (4,), (1, 4))


def _reason_of_pickle(content: Any) -> str | None:
    if isinstance(content, tuple):
        return f"a tuple of dictionaries, the format of bc-LSTM's features: {AS_MMSA}"
    if isinstance(content, list) and not is_clip_list(content):
        return f"a list without splits, the format of GCNet's features: {AS_MMSA}"
    if not isinstance(content, dict):
        return None
    parts = {plain_key(key): value for key, value in content.items()}
    labels = [
        value
        for name, part in parts.items()
        if split_of(name) and isinstance(part, dict)
        for key, value in part.items()
        if plain_key(key) in ("labels", "label")
    ]
    shapes = [value.shape for value in labels if hasattr(value, "shape")]
    has_emotions = len(_EMOTIONS & parts.keys()) > 1 or any(is_emotion_shape(shape) for shape in shapes)
    return iemocap() if has_emotions else None


def _reason_of_hdf5(file: Any) -> str | None:
    import h5py

    for name in ("data", "d1"):
        # Links are not followed: they could lead out of the file.
        is_inside = isinstance(file.get(name, getlink=True), h5py.HardLink)
        if is_inside and isinstance(file[name], h5py.Dataset):
            return (
                "an HDF5 file of MFN, one array of joined columns (300 of words, 5 of sound and 20 of the face for "
                f"MOSI) without ids: split the columns, and {AS_MMSA}"
            )
    return None
