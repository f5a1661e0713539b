"""What a workspace keeps beside stores and runs: states of frozen text encoders, the built-in encoder."""

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from conki_cli.data.store.opening import open_hdf5
from conki_cli.data.store.records import counted
from conki_cli.data.store.seal import check_seal
from conki_cli.doctor.findings import FAULT, Finding, Visit, fault, guarded, ordinary, size_on_disk, tried
from conki_cli.doctor.traces import holder_of, left_over
from conki_cli.system.errors import StoreError, quoted
from conki_cli.system.files import read_tensors
from conki_cli.system.locks import lock_beside
from conki_cli.system.readable import status_of
from conki_cli.text.vocabulary import vocabulary_problem

_BLOCK = 4 * 2**20  # bytes that are read at once


def kept_states_findings(path: Path, visit: Visit) -> Iterator[Finding]:
    """Examine a file with the states of a frozen text encoder: every byte against its checksum."""
    if holder := holder_of(lock_beside(path)):
        yield Finding(str(path), "remark", f"{holder} is writing it", "wait for it")
    found, error = tried(_kept, path, visit)
    if found is not None:
        yield Finding(str(path), "ok", found)
        return
    assert error is not None
    advice = f"delete it: rm {quoted(path)}; the next training that reads it computes it again"
    yield fault(path, error, path, advice)


def _kept(path: Path, visit: Visit) -> str:
    """Compare the states of all texts with their checksums and say what they are.

    Raises:
        StoreError: they are others.
        Exception: of any kind, from a damaged file.
    """
    size, read = ordinary(path).stat().st_size, 0
    check_seal(path)
    with open_hdf5(path) as file:
        offsets = file["offsets"][:]
        names = sorted(name for name in file if name != "offsets")
        for name in names:
            states, rows = file[name], len(offsets) - 1 if name == "first" else int(offsets[-1])
            start = states.id.get_offset()
            inside = start is not None and start + math.prod(states.shape) * states.dtype.itemsize <= size
            if len(states.shape) != 2 or states.shape[0] != rows or states.dtype.kind != "f" or not inside:
                raise StoreError(f"{path} is damaged ({name} is not what its texts have)")
            step, checksum, is_finite = max(1, _BLOCK // max(1, states.shape[1] * states.dtype.itemsize)), 0, True
            for first in range(0, rows, step):
                block = states[first : first + step]
                checksum = zlib.crc32(np.ascontiguousarray(block).data, checksum)
                is_finite = is_finite and bool(np.isfinite(block).all())
                read += block.nbytes
                visit.advance(block.nbytes, path.name)
            if checksum != int(states.attrs["crc32"]):
                raise StoreError(f"{path} is damaged ({name} was changed after it was written)")
            if not is_finite:
                raise StoreError(f"{path} is damaged ({name} holds what is no finite number)")
        visit.advance(max(0, size - read), path.name)
        return f"states of {counted(len(offsets) - 1, 'text')}: {', '.join(names)}; as written"


def encoder_findings(folder: Path, *, weights: bool, advice: str) -> Iterator[Finding]:
    """Say what a folder of a text encoder lacks, and which of its files are damaged; `advice` is what to do then."""
    problems = [] if status_of(folder / "config.json") else ["config.json is missing"]
    tokenizers = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
    if not any(path.is_file() for name in tokenizers for path in folder.glob(name)):
        problems.append("a tokenizer is missing (tokenizer.json or vocab.txt)")
    if weights and not status_of(folder / "model.safetensors"):
        problems.append("model.safetensors is missing")
    for problem in problems:
        yield Finding(str(folder), FAULT, problem, advice)
    for path in sorted(folder.glob("*")):
        check = {".json": _check_json, ".safetensors": _check_tensors}.get(path.suffix)
        if check is not None and path.name != "frozen.safetensors":
            _, error = tried(check, path)
            if error is not None:
                problems.append(path.name)
                yield fault(folder, error, path, advice)
    if not problems:
        yield from (Finding(str(folder), FAULT, problem, advice) for problem in _vocabulary_problems(folder))


def _vocabulary_problems(folder: Path) -> list[str]:
    """Compare the entries of a tokenizer with the rows of the embedding that config.json names."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return []
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True).values()
    num_rows = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    problem = vocabulary_problem(max(ids, default=-1) + 1, num_rows) if isinstance(num_rows, int) else ""
    return [problem] if problem else []


def _check_json(path: Path) -> None:
    json.loads(ordinary(path).read_text(encoding="utf-8"))


def _check_tensors(path: Path) -> None:
    for name, values in read_tensors(ordinary(path))[0].items():
        if not values.isfinite().all():
            raise ValueError(f"{name} holds what is no finite number")


def built_in_encoder_findings(visit: Visit) -> Iterator[Finding]:
    """Examine the demo's small BERT, where it was built."""
    folder = visit.workspace.built_in_encoder
    if not folder.exists():
        return
    if not holder_of(lock_beside(folder)):
        yield from left_over(folder)
    visit.advance(size_on_disk(folder / "model.safetensors"), folder.name)
    advice = f"delete it: rm -r {quoted(folder)}; {visit.command('demo')} builds it again"
    problems = list(guarded(folder, encoder_findings(folder, weights=True, advice=advice)))
    yield from problems or [Finding(str(folder), "ok", "the built-in text encoder: configuration, tokenizer, weights")]
