"""The last hidden states of a frozen text encoder, computed once per store and kept in HDF5.

TFN, LMF and MulT read the text encoder's states and never change it, so each clip's states are the same in every epoch
and for every seed. They lie behind each other, as frames do in a feature store: `<split>/states` [T, D] float32 and
`<split>/offsets` [N + 1] int64. The file's name says what they were made from; a part of one is never seen.

Axes: N clips of a split, T tokens of all clips, L tokens of a clip, D hidden size.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from conki_cli.batches import Inputs, pad_tokens
from conki_cli.errors import StoreError, reason_of
from conki_cli.files import atomic_path, locked
from conki_cli.packing import Packing
from conki_cli.store import Ragged
from conki_cli.store.arrays import FileArray, OpenFile
from conki_cli.text_encoder import TextEncoder

if TYPE_CHECKING:
    from conki_cli.runs import Reporter

_CLIPS = 64  # are encoded together, in groups of similar length


def text_states(
    encoder: TextEncoder, inputs: Inputs, folder: Path, identity: str, *, device: torch.device, reporter: "Reporter"
) -> dict[str, Ragged]:
    """Return the states of every split of the store that a stage trains on, [L, D] per clip; they stay on disk.

    Args:
        encoder: the frozen encoder.
        inputs: the store and its token ids.
        folder: where the file is kept.
        identity: what the encoder is, by its content.
        device: where to compute.
        reporter: shown the progress.

    Raises:
        ConkiError: the file cannot be written.
        StoreError: it is damaged.
    """
    store = inputs.learnt
    made_from = f"{store.content_id} {identity} {inputs.max_tokens}"
    path = folder / f"{store.dataset}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.h5"
    with locked(path.with_name(f".{path.name}.lock"), what=str(path)):
        if not path.exists():
            _write(path, encoder, inputs, device, reporter)
    return _read(path, {split: len(store.split(split)) for split in store.splits})


def _write(path: Path, encoder: TextEncoder, inputs: Inputs, device: torch.device, reporter: "Reporter") -> None:
    import h5py

    encoder.eval()
    store = inputs.learnt
    tokens = {s: inputs.token_ids(store.split(s), f"{store.dataset}/{s}") or [] for s in store.splits}
    with (
        reporter.steps(f"reading the texts of {store.dataset} once", sum(map(len, tokens.values()))) as advance,
        atomic_path(path) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        for split, ids in tokens.items():
            offsets = np.concatenate([[0], np.cumsum([len(clip) for clip in ids])]).astype("<i8")
            width = encoder.backbone.config.hidden_size
            states = file.create_dataset(f"{split}/states", shape=(int(offsets[-1]), width), dtype="<f4")
            for first in range(0, len(ids), _CLIPS):
                clips = ids[first : first + _CLIPS]
                states[offsets[first] : offsets[first + len(clips)]] = _encoded(encoder, clips, device)
                advance(len(clips), split)
            file.create_dataset(f"{split}/offsets", data=offsets)  # last: what has them is whole


@torch.no_grad()
def _encoded(encoder: TextEncoder, clips: list[np.ndarray], device: torch.device) -> np.ndarray:
    """Return the states of some clips behind each other, [T, D]."""
    part = pad_tokens(clips).to(device)
    packing = Packing.of(part.mask)
    states = encoder(packing.pack(part.values), packing)[1][-1].float()
    found: np.ndarray = packing.unpack(states)[part.mask].cpu().numpy()
    return found


def _read(path: Path, counts: Mapping[str, int]) -> dict[str, Ragged]:
    import h5py

    opened = OpenFile(path, failure=StoreError, advice="delete it and run again")
    made: dict[str, Ragged] = {}
    try:
        with h5py.File(path, "r") as file:
            for split, count in counts.items():
                offsets, states = file[f"{split}/offsets"][:], file[f"{split}/states"]
                start = states.id.get_offset()
                fits = len(offsets) == count + 1 and int(offsets[-1]) == len(states) and states.dtype == np.dtype("<f4")
                if not fits or (start is None and len(states)):
                    raise ValueError(f"{split} is not what the store has")
                array = FileArray(opened, start or 0, np.dtype("<f4"), states.shape)
                made[split] = Ragged(array, offsets)
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({reason_of(error)}): delete it and run again") from error
    return made
