"""Weights on disk: safetensors with the run's configuration in the header; nothing pickled.

`best` and `last` hold the weights that a stage trains; `frozen` holds those that it uses but does not train, once per
seed. While a run is unfinished, `last` also holds the optimiser's state, so that training can resume.
"""

import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conki_cli import __version__
from conki_cli.model.contract import SentimentModel
from conki_cli.runs import Run
from conki_cli.system.errors import CheckpointError, Kind, RunError, one_line, reason_of
from conki_cli.system.files import atomic_path, disk_error, read_tensors, set_mode
from conki_cli.system.readable import check_read, check_readable, status_of, system_error_in

CHECKPOINT_SCHEMA = "1"
_OPTIMIZER = "optimizer."
_AGAIN = "delete its seed folder and train again"
_ITEMSIZE = 4  # bytes of a float32


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-ready facts to a safetensors file, atomically.

    Raises:
        ConkiError: the disk is full or the folder is not writable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    said = json.dumps(facts)
    header = {"schema": CHECKPOINT_SCHEMA, "conki": __version__, "facts": said, "crc32": _checksum(plain, said)}
    with atomic_path(path) as temporary:
        mode = temporary.stat().st_mode
        try:
            save_file(plain, temporary, metadata=header)
            _put_header_in_order(temporary)
            set_mode(temporary, mode)  # the library creates a file there that only its owner can read
        except SafetensorError as error:  # the library reports a full disk with its own error type
            raise disk_error(path, system_error_in(error) or OSError(0, str(error))) from error


def _put_header_in_order(path: Path) -> None:
    """Sort the metadata in the header, which the library writes in any order: equal training gives equal files."""
    with path.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # else the library escapes characters differently: leave the file as it is
            stream.seek(8)
            stream.write(text.ljust(size))


def _checksum(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Return the CRC-32 of the facts and of every tensor's name, type, shape and bytes, in 8 hex digits."""
    found = zlib.crc32(facts.encode())
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def load(path: Path, *, facts_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors (none with `facts_only`) and the facts of a checkpoint.

    Raises:
        CheckpointError: the file is missing, or was read and is damaged.
        RunError: it has another schema.
        UnreadableError: the system cannot read it, so its content is unknown.
    """
    from safetensors import SafetensorError

    advice = _AGAIN if path.parent.name == "checkpoints" else "delete the run folder and train again"
    check_readable(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} is missing", advice, kind=Kind.MISSING)
    try:
        tensors, header = read_tensors(path, only_header=facts_only)
    except (SafetensorError, OSError, RuntimeError) as error:
        check_read(path, error)
        if not isinstance(error, SafetensorError | OSError):  # torch's own, for example out of memory
            raise
        raise CheckpointError(f"checkpoint {path} is damaged ({reason_of(error)})", advice) from error
    if header.get("schema") != CHECKPOINT_SCHEMA:
        raise RunError(
            f"checkpoint {path} has schema {header.get('schema')}, this conki {__version__} reads {CHECKPOINT_SCHEMA}",
            "install the version that wrote it, or a newer one",
            kind=Kind.NEWER,
        )
    # Checkpoints of earlier versions have no checksum; without the tensors there is nothing to compare.
    if not facts_only and header.get("crc32", "") not in ("", _checksum(tensors, header.get("facts", ""))):
        raise CheckpointError(f"checkpoint {path} is damaged (its content does not fit its checksum)", advice)
    try:
        return tensors, dict(json.loads(header["facts"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} lacks its facts", advice) from error


def select(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the named weights of a model."""
    state = model.state_dict()
    return {name: state[name] for name in names}


def restore(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy named weights into a model; every name and shape must fit, except for memories of the training clips.

    Raises:
        RunError: the model lacks a weight, or has it in another shape.
    """
    if isinstance(model, SentimentModel):
        model.resize_memory(tensors)
    state = model.state_dict()
    for name, tensor in tensors.items():
        if name not in state or state[name].shape != tensor.shape:
            found = f"shape {tuple(state[name].shape)}" if name in state else "no such weight"
            raise RunError(f"{where} does not fit the model: {name} {tuple(tensor.shape)} there, {found} here")
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def optimizers_tensors(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return the state of every phase's optimiser as named tensors."""
    return {
        f"{_OPTIMIZER}{phase}.{index}.{key}": value
        for phase, optimizer in optimizers.items()
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def restore_optimizers(optimizers: Mapping[str, torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that `optimizers_tensors` returned."""
    for phase, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"{_OPTIMIZER}{phase}."):
                index, key = name.removeprefix(f"{_OPTIMIZER}{phase}.").split(".")
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def without_optimizer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return only the weights."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_OPTIMIZER)}


def slim_last(last: Path, best: Path, *, best_is_last: bool) -> None:
    """Drop the optimiser's state from a finished run's `last`; if it equals `best`, link it to the same file."""
    if best_is_last:
        with atomic_path(last) as temporary:
            temporary.unlink()
            try:
                os.link(best, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(best, temporary)
        return
    tensors, facts = load(last)
    save(last, without_optimizer(tensors), facts)


def size_while_training(model: nn.Module, trained: Sequence[str], frozen: Sequence[str]) -> tuple[int, int]:
    """Return the bytes of one seed's checkpoints while it trains, and when it is finished."""
    state = model.state_dict()
    weights = _ITEMSIZE * sum(state[name].numel() for name in trained)
    kept = _ITEMSIZE * sum(state[name].numel() for name in frozen)
    moments = 2 * _ITEMSIZE * sum(p.numel() for p in model.parameters() if p.requires_grad)
    # `last` and the checkpoint before it; two copies of the best weights while they are written.
    return kept + 2 * (weights + moments) + 2 * weights, kept + 2 * weights


def load_best(run: Run, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the best weights of a finished seed together with its frozen ones, and the facts.

    Raises:
        CheckpointError: they are missing, damaged, or belong to another seed or epoch.
    """
    path, frozen = run.checkpoint(seed, "best"), run.checkpoint(seed, "frozen")
    weights, facts = load(path)
    if other := of_another(run, seed, facts):
        raise CheckpointError(f"checkpoint {path} {other}", _AGAIN)
    return {**weights, **load(frozen)[0]} if status_of(frozen) is not None else weights, facts


def of_another(run: Run, seed: int, facts: Mapping[str, Any]) -> str:
    """Say which weights a file has instead of a seed's best ones; empty if it has those."""
    result = run.seed_result(seed)
    wanted = {"seed": seed, **({"epoch": result.best_epoch} if result is not None and result.best_epoch else {})}
    if all(facts.get(name, value) == value for name, value in wanted.items()):
        return ""
    said, found = (
        ", ".join(f"{name} {one_line(str(x))[:20]}" for name, x in part.items())
        for part in (wanted, {name: facts.get(name) for name in wanted})
    )
    return f"has the weights of {found}, not of {said}"
