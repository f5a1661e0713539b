"""Check pretrained weights: complete, in the right shape, and finite.

No weight file is read a second time: the checks use the loaded weights and the names in the files.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conki_cli.system.errors import EncoderError
from conki_cli.text.folders import WEIGHT_FILES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAMED = 20  # names in a message
_POOLER = "pooler."
"""Pretraining often has no pooler; its weights may be random, because fine-tuning trains them."""

Report = Mapping[str, Any]
"""Transformers' report on loaded weights: missing_keys, unexpected_keys, mismatched_keys, error_msgs."""


def prefix_mapping(report: Report) -> dict[str, str] | None:
    """Return the renaming that removes a common prefix, such as `module.`, from the names of the weights.

    Args:
        report: the report of a load without renaming.

    Returns:
        A pattern and its replacement for transformers; None if no prefix explains the missing weights.
    """
    missing = set(report["missing_keys"])
    prefixes: Counter[str] = Counter()
    for key in report["unexpected_keys"]:
        starts = (match.end() for match in re.finditer(r"\.", key))
        prefixes.update(key[:start] for start in starts if key[start:] in missing)
    ranked = prefixes.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):  # the weights of two encoders in one file
        return None
    return {f"^{re.escape(ranked[0][0])}": ""}


def check_weights(model: "PreTrainedModel", report: Report, folder: Path, *, noun: str) -> frozenset[str]:
    """Refuse weights that are missing, of another shape, or not finite.

    Args:
        model: the loaded model.
        report: transformers' report on the loaded weights.
        folder: the folder of the model.
        noun: the model's noun for messages.

    Returns:
        The names of the missing weights that are allowed to be missing: those of a pooler.

    Raises:
        EncoderError: weights are missing, or wrong; the message names them, or the file and the tensor.
    """
    names = set(model.state_dict())
    missing = frozenset(report["missing_keys"]) & names
    if lacking := {name for name in missing if not name.startswith(_POOLER)}:
        raise EncoderError(
            f"the weights in {folder} must fit its config.json, but {len(lacking)} of {len(names)} are missing "
            f"({_listed(_modules(lacking, names))})",
            f"fetch or save the {noun} again",
        )
    if others := sorted(report["mismatched_keys"]):
        shapes = (f"{name} {list(found)} instead of {list(wanted)}" for name, found, wanted in others)
        raise EncoderError(
            f"the weights in {folder} must fit its config.json, but {len(others)} have another shape "
            f"({_listed(shapes)})",
            f"fetch or save the {noun} again",
        )
    _check_finite(model, folder, noun)
    return missing


def _modules(lacking: Collection[str], names: Collection[str]) -> list[str]:
    """Name a module that lacks all its weights once, as `encoder.layer.2.*`, and other weights one by one."""
    found: dict[str, None] = {}
    for name in sorted(lacking):
        stems = [name[: match.end()] for match in re.finditer(r"\.", name)]
        whole = (stem for stem in stems if all(other in lacking for other in names if other.startswith(stem)))
        stem = next(whole, None)
        found[name if stem is None else f"{stem}*"] = None
    return list(found)


def _listed(words: Iterable[str]) -> str:
    known = list(words)
    rest = f", and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + rest


def _check_finite(model: "PreTrainedModel", folder: Path, noun: str) -> None:
    """Refuse NaN and infinity: after one step all weights and predictions would be NaN."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
            value = tensor[~finite].flatten()[0].item()
            raise EncoderError(
                f"{folder / _file_of(name, folder)} must hold only finite numbers, but {name} has {value} in "
                f"{int((~finite).sum())} of {tensor.numel()} places",
                f"fetch or save the {noun} again",
            )


def _file_of(name: str, folder: Path) -> str:
    """Return the name of the file that holds a weight; weights in several files have an index."""
    single, index = WEIGHT_FILES
    if (folder / single).is_file():
        return single
    files: Mapping[str, str] = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
    return next((file for key, file in files.items() if f".{key}".endswith(f".{name}")), index)
