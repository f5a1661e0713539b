"""Cached states of a frozen text encoder: computed once per store, shared by epochs, seeds and ablations (HDF5).

Stage 1 of ConKI, TFN, LMF and MulT read states of an encoder that never changes. A file covers one split. It holds
`layer_<i>` [T, D] for each hidden state H_t that is read, with all texts back to back, `offsets` [N + 1] int64, and
`first` [N, D], the last state of the first token, which the pooler reads. Nothing is compressed: every text is one
read. The file name is a digest of everything the states depend on (store, tokens, the encoder's weights and settings,
layers, number format). Files are written atomically, and a checksum detects later changes. The embedding layer's
output (H_t[0]) is a table look-up and is not cached.

Axes: N texts of a split, T tokens of all of them, L tokens of a text, D hidden size.
"""

import contextlib
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conki_cli.data.store.arrays import FileArray, OpenFile
from conki_cli.data.store.opening import open_hdf5
from conki_cli.data.store.records import Ragged
from conki_cli.data.store.seal import BLOCK, check_seal, seal
from conki_cli.model.batches import pad_tokens
from conki_cli.model.inputs import Inputs
from conki_cli.model.packing import Packing
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.system.errors import ConkiError, StoreError, reason_of
from conki_cli.system.files import atomic_path, disk_error, remove_leftovers
from conki_cli.system.locks import forget_killed, lock_beside, locked
from conki_cli.system.readable import check_read, check_readable, human_size, status_of

if TYPE_CHECKING:
    from conki_cli.system.observer import Observer

_CLIPS = 64  # clips that are encoded together
_SPARE = 64 * 2**20  # bytes that stay free on the disk in addition to what the run needs
_BLOCK = 4 * 2**20  # bytes that are read at once for the checksum
_NOT_ITS_OWN = ("transformers_version", "architectures", "dtype", "torch_dtype")  # no effect on the states
_TYPES = {"fp32": "<f4", "fp16": "<f2"}


Texts = Sequence[np.ndarray]
"""Token ids of every text."""


@dataclass(frozen=True)
class StateCache:
    """Which states of a frozen encoder are cached, and where."""

    encoder: TextEncoder
    layers: tuple[int, ...]
    """Indices of the hidden states that are read; 0 is the input of layer 1."""
    precision: str
    """fp32 or fp16."""
    folder: Path
    device: torch.device
    spare: int = 0
    """Bytes on the disk that the run needs for its checkpoints."""

    @property
    def names(self) -> tuple[str, ...]:
        """The data sets with one row per token."""
        return tuple(f"layer_{index}" for index in self.layers if index or not self.encoder.packs)

    @property
    def width(self) -> int:
        """D."""
        return int(self.encoder.backbone.config.hidden_size)

    @property
    def kind(self) -> np.dtype[np.floating]:
        """The type of the numbers in the file."""
        return np.dtype(_TYPES[self.precision])

    def shapes(self, tokens: Texts) -> dict[str, tuple[int, int]]:
        """Return the shape of every data set for some texts: [T, D], and [N, D] for `first`."""
        rows = {name: sum(map(len, tokens)) for name in self.names} | {"first": len(tokens)}
        return {name: (count, self.width) for name, count in rows.items()}


def with_states(cache: StateCache, inputs: Inputs, splits: Sequence[str], observer: "Observer") -> Inputs | None:
    """Add cached states to the inputs of a stage, of every store that it trains on; None: see `cached_states`."""
    parts = []
    for part in inputs.sources:
        states = cached_states(cache, part, splits, observer)
        if states is None:
            return None
        parts.append(replace(part, states=states))
    return replace(inputs, parts=tuple(parts)) if inputs.parts else parts[0]


def cached_states(
    cache: StateCache, inputs: Inputs, splits: Sequence[str], observer: "Observer"
) -> dict[str, dict[str, Ragged]] | None:
    """Return the states of some splits of the store that a stage trains on; compute those that are not cached yet.

    Returns:
        split -> name -> [L, D] per text (`first`: [1, D]); they stay on disk. None if they cannot be cached.

    Raises:
        StoreError: a cached file is damaged.
        UnreadableError: the system cannot read a file.
    """
    store, encoder = inputs.learnt, _encoder_digest(cache.encoder)
    texts: dict[Path, Texts] = {}
    for split in splits:
        tokens = inputs.token_ids(split) or []
        made_from = [store.content_id, split, _tokens_digest(tokens), encoder, *cache.names, cache.precision]
        if cache.encoder.separator is not None:  # a second token type
            made_from.append(f"separator {cache.encoder.separator}")
        key = hashlib.sha256(" ".join(made_from).encode()).hexdigest()[:16]
        texts[cache.folder / f"{store.dataset}-{split}-{key}.h5"] = tokens
    missing = {path: tokens for path, tokens in texts.items() if status_of(path) is None}
    for path in texts.keys() - missing.keys():
        forget_killed(lock_beside(path))
    if missing and not _made(missing, cache, store.dataset, observer):
        return None
    return {split: _read(path, cache, texts[path]) for split, path in zip(splits, texts, strict=True)}


def _encoder_digest(encoder: TextEncoder) -> str:
    """Return the SHA-256 of the parts of an encoder that the cached states depend on: all but the pooler."""
    settings = {k: v for k, v in encoder.backbone.config.to_dict().items() if k[0] != "_" and k not in _NOT_ITS_OWN}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(encoder.backbone.state_dict().items()):
        if not name.startswith("pooler."):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tokens_digest(tokens: Texts) -> str:
    """Return the SHA-256 of the token ids, which depend on the texts, the tokenizer and the length limit."""
    digest = hashlib.sha256()
    for ids in tokens:
        digest.update(len(ids).to_bytes(8, "little") + np.asarray(ids, dtype="<i8").tobytes())
    return digest.hexdigest()


def _made(missing: Mapping[Path, Texts], cache: StateCache, dataset: str, observer: "Observer") -> bool:
    """Write the missing files; return whether the disk had room for them. If not, none of them stays."""
    made: list[Path] = []
    try:
        _announce(missing, cache, dataset, observer)
        with observer.steps(f"text encoder: {dataset}", sum(map(len, missing.values()))) as advance:
            for path, tokens in missing.items():
                with locked(lock_beside(path), what=str(path), wait=True, say=observer.say):
                    if status_of(path) is not None:  # another process wrote it meanwhile
                        advance(len(tokens), "")
                        continue
                    remove_leftovers(path)
                    _write(path, cache, tokens, advance)
                    made.append(path)
    except ConkiError as error:
        observer.say(f"{error}; the states of the frozen text encoder are computed again in every epoch instead")
        for path in made:
            path.unlink(missing_ok=True)
        return False
    return True


def _announce(missing: Mapping[Path, Texts], cache: StateCache, dataset: str, observer: "Observer") -> None:
    """Say how much will be written, before it is; raise a ConkiError if the disk lacks room for it."""
    rows = [count for tokens in missing.values() for count, _ in cache.shapes(tokens).values()]
    size = sum(rows) * cache.width * cache.kind.itemsize
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache.folder).free
    except OSError as error:
        raise disk_error(cache.folder, error) from error
    if size + cache.spare + _SPARE > free:
        rest = f" and the run's own files {human_size(cache.spare)}" if cache.spare else ""
        raise ConkiError(
            f"{cache.folder} has {human_size(free)} free, and the states of the frozen text encoder for {dataset} take "
            f"{human_size(size)}{rest}"
        )
    observer.say(
        f"the frozen text encoder reads {dataset} once; its states take {human_size(size)} below {cache.folder}"
    )


def _write(path: Path, cache: StateCache, tokens: Texts, advance: Callable[[int, str], None]) -> None:
    import h5py

    from conki_cli.data.store.sink import Sink

    with atomic_path(path) as temporary:
        with Sink(temporary) as sink, h5py.File(sink, "w", userblock_size=BLOCK) as file:
            for count in _fill(file, cache, tokens):
                advance(count, "")
                file.flush()
                if sink.failure is not None:
                    break  # full disk: HDF5 would hold the unwritten data in memory
        seal(temporary)


def _fill(file: Any, cache: StateCache, tokens: Texts) -> Iterator[int]:
    """Write the states of all texts into an open HDF5 file; yield the number of texts after each part."""
    offsets = _offsets(tokens)
    shapes = cache.shapes(tokens)
    made = {name: file.create_dataset(name, shape=shape, dtype=cache.kind) for name, shape in shapes.items()}
    sums = dict.fromkeys(made, 0)
    for start in range(0, len(tokens), _CLIPS):
        clips = tokens[start : start + _CLIPS]
        for name, rows in _encoded(cache, clips).items():
            begin = start if name == "first" else int(offsets[start])
            made[name][begin : begin + len(rows)] = rows
            sums[name] = zlib.crc32(rows.data, sums[name])
        yield len(clips)
    for name, found in sums.items():
        made[name].attrs["crc32"] = np.uint32(found)
    file.create_dataset("offsets", data=offsets)


def _offsets(tokens: Texts) -> np.ndarray:
    """Return where every text starts and the last one ends, [N + 1]."""
    return np.concatenate([[0], np.cumsum([len(ids) for ids in tokens])]).astype("<i8")


@torch.no_grad()
def _encoded(cache: StateCache, clips: Texts) -> dict[str, np.ndarray]:
    """Return the states of some texts back to back, [T, D] each, and `first`, [N, D]."""
    part = pad_tokens(clips).to(cache.device)
    packing = Packing.of(part.mask, part.lengths)
    cache.encoder.eval()
    with _full_products():
        hidden = cache.encoder(packing.pack(part.values), packing)[1]
    found = {name: packing.unpack(hidden[int(name.removeprefix("layer_"))])[part.mask] for name in cache.names}
    found["first"] = hidden[-1][packing.first]
    with np.errstate(over="ignore"):
        rows = {name: states.float().cpu().numpy().astype(cache.kind) for name, states in found.items()}
    if not all(np.isfinite(values).all() for values in rows.values()):
        raise ConkiError(f"some states of the frozen text encoder are not finite in {cache.precision}")
    return rows


@contextlib.contextmanager
def _full_products() -> Iterator[None]:
    """Multiply in full float32 even if the run uses tf32, because both kinds of run share the files."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _read(path: Path, cache: StateCache, tokens: Texts) -> dict[str, Ragged]:
    """Open a file and compare every byte of its states with the checksum, once."""
    offsets, made = _offsets(tokens), {}
    check_readable(path)
    try:
        opened = OpenFile(path, failure=StoreError, advice="delete it and run again")
        check_seal(path)
        with open_hdf5(path) as file:
            if not np.array_equal(file["offsets"][:], offsets):
                raise ValueError("its texts differ from those of the store")
            for name, shape in cache.shapes(tokens).items():
                states, start = file[name], file[name].id.get_offset()
                if states.shape != shape or states.dtype != cache.kind or start is None:
                    raise ValueError(f"{name} does not match the store")
                values = FileArray(opened, start, cache.kind, shape)
                found, finite = _checksum(values)
                if found != int(states.attrs["crc32"]):
                    raise ValueError(f"{name} was changed after it was written")
                if not finite:
                    raise ValueError(f"{name} has values that are not finite")
                made[name] = Ragged(values, np.arange(len(tokens) + 1) if name == "first" else offsets)
    except StoreError:
        raise
    except Exception as error:  # h5py raises exceptions of any kind on damaged files
        check_read(path, error)
        raise StoreError(f"{path} is damaged ({reason_of(error)})", advice="delete it and run again") from error
    return made


def _checksum(values: FileArray) -> tuple[int, bool]:
    """Return the CRC-32 of some states, and whether all of them are finite."""
    step, found, finite = max(1, _BLOCK // values.row_bytes), 0, True
    for start in range(0, len(values), step):
        block = values[start : start + step]
        found, finite = zlib.crc32(block.data, found), finite and bool(np.isfinite(block).all())
    return found, finite
