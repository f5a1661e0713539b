"""Verify a folder of a text encoder: configuration, tokenizer and, if present, complete weights."""

import json
from collections.abc import Iterator
from pathlib import Path

from conki_cli.system.errors import quoted
from conki_cli.system.files import read_tensors
from conki_cli.system.findings import FAULT, OK, Examination, Finding, attempt, fault, guarded, ordinary, size_on_disk
from conki_cli.system.readable import status_of
from conki_cli.text.encoders import TOKENIZER_FILES
from conki_cli.text.folders import WEIGHT_FILES
from conki_cli.text.vocabulary import vocabulary_problem

_WEIGHTS = WEIGHT_FILES[0]
_OF_RUNS = "frozen.safetensors"
"""A checkpoint that a run stores beside its encoder's files."""


def verify_encoder(folder: Path, *, weights: bool, advice: str) -> Iterator[Finding]:
    """Say what a folder of a text encoder lacks, and which of its files are damaged.

    Args:
        folder: where configuration and tokenizer lie.
        weights: whether the weights must be there too.
        advice: what to do about what is wrong.
    """
    found = [Finding(str(folder), FAULT, problem, advice) for problem in _missing(folder, weights=weights)]
    found += [fault(folder, error, path, advice) for path, error in _damaged(folder)]
    yield from found
    if not found and (problem := _vocabulary_problem(folder)):
        yield Finding(str(folder), FAULT, problem, advice)


def verify_built_in_encoder(examination: Examination) -> Iterator[Finding]:
    """Verify the demo's small BERT, where it was built."""
    folder = examination.workspace.built_in_encoder
    if not folder.exists():
        return
    examination.advance(size_on_disk(folder / _WEIGHTS), folder.name)
    advice = f"delete it: rm -r {quoted(folder)}; {examination.command('demo')} builds it again"
    problems = list(guarded(folder, verify_encoder(folder, weights=True, advice=advice)))
    yield from problems or [Finding(str(folder), OK, "the built-in text encoder: configuration, tokenizer, weights")]


def _missing(folder: Path, *, weights: bool) -> Iterator[str]:
    if not status_of(folder / "config.json"):
        yield "config.json is missing"
    if not any(path.is_file() for name in TOKENIZER_FILES for path in folder.glob(name)):
        yield "a tokenizer is missing (tokenizer.json or vocab.txt)"
    if weights and not status_of(folder / _WEIGHTS):
        yield f"{_WEIGHTS} is missing"


def _damaged(folder: Path) -> Iterator[tuple[Path, Exception]]:
    for path in sorted(folder.glob("*")):
        check = {".json": _check_json, ".safetensors": _check_tensors}.get(path.suffix)
        if check is None or path.name == _OF_RUNS:
            continue
        error = attempt(lambda check, path: check(ordinary(path)), check, path)[1]
        if error is not None:
            yield path, error


def _check_json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))


def _check_tensors(path: Path) -> None:
    for name, values in read_tensors(path)[0].items():
        if not values.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")


def _vocabulary_problem(folder: Path) -> str:
    """Compare the entries of a tokenizer with the rows of the embedding in config.json."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return ""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True).values()
    num_rows = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    return vocabulary_problem(max(ids, default=-1) + 1, num_rows) if isinstance(num_rows, int) else ""
