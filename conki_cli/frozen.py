"""The states of a frozen text encoder, computed once per store and kept in HDF5: shared by epochs, seeds and ablations.

Stage 1 of ConKI, TFN, LMF and MulT read states of an encoder that never changes. Of one split a file holds, for each
hidden state H_t that is read, `layer_<i>` [T, D], all texts behind each other, `offsets` [N + 1] int64, and `first`
[N, D], the last state of the first token, which the pooler reads. Nothing is compressed: every text is one read. The
file's name says what it was made from (texts, tokens, the encoder's weights, layers, type of number); a part of one is
never seen. The embedding layer's output (H_t[0]) is a table look-up and is not kept.

Axes: N texts of a split, T tokens of all of them, L tokens of a text, D hidden size.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conki_cli.batches import Inputs, pad_tokens
from conki_cli.errors import ConkiError, StoreError, reason_of
from conki_cli.files import atomic_path, human_size, locked
from conki_cli.packing import Packing
from conki_cli.store import Ragged
from conki_cli.store.arrays import FileArray, OpenFile
from conki_cli.text_encoder import TextEncoder

if TYPE_CHECKING:
    from conki_cli.runs import Reporter

_CLIPS = 64  # are encoded together
_SPARE = 64 * 2**20  # bytes that stay free on the disk
_TYPES = {"fp32": "<f4", "fp16": "<f2"}


@dataclass(frozen=True)
class Keeping:
    """What to keep of a frozen encoder, and where."""

    encoder: TextEncoder
    layers: tuple[int, ...]
    """Indices of the hidden states that are read, 0 being the input of layer 1."""
    precision: str
    """fp32 or fp16."""
    folder: Path
    device: torch.device

    @property
    def names(self) -> tuple[str, ...]:
        """The data sets with one row per token."""
        return tuple(f"layer_{index}" for index in self.layers if index or not self.encoder.packs)

    @property
    def width(self) -> int:
        """D."""
        return int(self.encoder.backbone.config.hidden_size)


def kept_states(
    keeping: Keeping, inputs: Inputs, splits: Sequence[str], reporter: "Reporter"
) -> dict[str, dict[str, Ragged]] | None:
    """Return the states of the splits of the store that a stage trains on, computing those that are not kept yet.

    Returns:
        split -> name -> [L, D] per text (`first`: [1, D]); they stay on disk. None where they cannot be kept.

    Raises:
        StoreError: a kept file is damaged.
    """
    store = inputs.learnt
    weights = _digest(keeping.encoder)
    found = {}
    for split in splits:
        tokens = inputs.token_ids(store.split(split), f"{store.dataset}/{split}") or []
        made_from = [store.content_id, split, str(inputs.max_tokens), weights, *keeping.names, keeping.precision]
        key = hashlib.sha256(" ".join(made_from).encode()).hexdigest()[:16]
        path = keeping.folder / f"{store.dataset}-{split}-{key}.h5"
        with locked(path.with_name(f".{path.name}.lock"), what=str(path), wait=True):
            if not path.exists() and not _made(path, keeping, tokens, f"{store.dataset}, {split}", reporter):
                return None
        found[split] = _read(path, keeping, len(tokens))
    return found


def _digest(encoder: TextEncoder) -> str:
    """Return the SHA-256 of every weight that the kept states depend on: the pooler runs after them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.backbone.state_dict().items()):
        if not name.startswith("pooler."):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _made(path: Path, keeping: Keeping, tokens: Sequence[np.ndarray], what: str, reporter: "Reporter") -> bool:
    """Write the file of a split; tell whether the disk had room for it."""
    count = sum(map(len, tokens)) * len(keeping.names) + len(tokens)  # rows
    size = count * keeping.width * np.dtype(_TYPES[keeping.precision]).itemsize + 8 * len(tokens)
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if size + _SPARE > free:
        reporter.say(
            f"{path.parent} has {human_size(free)} free, and the states of the frozen text encoder for {what} take "
            f"{human_size(size)}: they are computed anew in every epoch"
        )
        return False
    reporter.say(f"the frozen text encoder reads {what} once; its states take {human_size(size)} below {path.parent}")
    try:
        with reporter.steps(what, len(tokens)) as advance:
            _write(path, keeping, tokens, advance)
    except ConkiError as error:
        reporter.say(f"{error}; the states of the frozen text encoder are computed anew in every epoch")
        return False
    return True


def _write(path: Path, keeping: Keeping, tokens: Sequence[np.ndarray], advance: Any) -> None:
    import h5py

    from conki_cli.store.sink import Sink

    keeping.encoder.eval()
    offsets = np.concatenate([[0], np.cumsum([len(clip) for clip in tokens])]).astype("<i8")
    kind = _TYPES[keeping.precision]
    with atomic_path(path) as temporary, Sink(temporary) as sink, h5py.File(sink, "w") as file:
        shapes = {name: (int(offsets[-1]), keeping.width) for name in keeping.names}
        made = {name: file.create_dataset(name, shape=shape, dtype=kind) for name, shape in shapes.items()}
        made["first"] = file.create_dataset("first", shape=(len(tokens), keeping.width), dtype=kind)
        for start in range(0, len(tokens), _CLIPS):
            clips = tokens[start : start + _CLIPS]
            states = _encoded(keeping, clips)
            made["first"][start : start + len(clips)] = states.pop("first")
            for name, rows in states.items():
                made[name][offsets[start] : offsets[start + len(clips)]] = rows
            advance(len(clips), "")
            file.flush()
            if sink.failure is not None:
                break  # a full disk: what is not written would be held in memory
        file.create_dataset("offsets", data=offsets)


@torch.no_grad()
def _encoded(keeping: Keeping, clips: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the states of some texts behind each other, [T, D] each, and `first`, [N, D]."""
    part = pad_tokens(clips).to(keeping.device)
    packing = Packing.of(part.mask)
    hidden = keeping.encoder(packing.pack(part.values), packing)[1]
    found = {name: packing.unpack(hidden[int(name.removeprefix("layer_"))])[part.mask] for name in keeping.names}
    found["first"] = hidden[-1][packing.first]
    return {name: states.float().cpu().numpy() for name, states in found.items()}


def _read(path: Path, keeping: Keeping, count: int) -> dict[str, Ragged]:
    import h5py

    opened = OpenFile(path, failure=StoreError, advice="delete it and run again")
    try:
        with h5py.File(path, "r") as file:
            offsets = file["offsets"][:]
            shapes = {name: (int(offsets[-1]), keeping.width) for name in keeping.names}
            shapes["first"] = (count, keeping.width)
            made = {}
            for name, shape in shapes.items():
                states = file[name]
                start, kind = states.id.get_offset(), np.dtype(_TYPES[keeping.precision])
                if len(offsets) != count + 1 or states.shape != shape or states.dtype != kind or start is None:
                    raise ValueError(f"{name} is not what the store has")
                bounds = np.arange(count + 1) if name == "first" else offsets
                made[name] = Ragged(FileArray(opened, start, kind, shape), bounds)
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({reason_of(error)}): delete it and run again") from error
    return made
