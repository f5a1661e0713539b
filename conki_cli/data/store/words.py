"""Describe the repairs in the frames of a store, as counted in its `repaired`."""

from collections.abc import Mapping

from conki_cli.data.store.records import counted


def repair_lines(modality: str, counts: Mapping[str, int]) -> list[str]:
    """Describe the values of a modality that a store cannot hold."""
    kinds = {"nan": "NaN", "inf": "infinite", "too_large": "too large (beyond float32)"}
    found = {name: counts[key] for key, name in kinds.items() if counts.get(key)}
    if not found:
        return []
    listed = " and ".join(f"{count:,} {name}" for name, count in found.items())
    return [f"{modality}: {listed} value{'s' * (sum(found.values()) != 1)} became 0"]


def padding_lines(modality: str, counts: Mapping[str, int], padding: str = "") -> list[str]:
    """Describe where the padding of a file contradicted its lengths, which does no harm.

    Args:
        modality: vision or audio.
        counts: the store's `repaired` for this modality.
        padding: the side of the padding, such as "front, by the file's lengths".
    """
    lines = []
    place = "before their frames" if padding.startswith("front") else "after their length"
    if clips := counts.get("clips_with_junk"):
        dropped = counted(counts.get("junk_frames", 0), "frame")
        lines.append(f"{modality}: {counted(clips, 'clip')} with values {place}: {dropped} dropped")
    if clips := counts.get("lengths_clamped"):
        lines.append(f"{modality}: {counted(clips, 'clip')} with a length beyond the array: the whole array was used")
    return lines
