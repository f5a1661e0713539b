"""Verify a folder of a text encoder: configuration, tokenizer and, if present, complete weights."""

import json
from collections.abc import Iterator
from pathlib import Path

from conki_cli.system.errors import ConkiError
from conki_cli.system.files import read_tensors
from conki_cli.system.readable import obstacle_at, status_of
from conki_cli.text.vocabulary import vocabulary_problem

_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_OF_RUNS = "frozen.safetensors"
"""A checkpoint that a run stores beside its encoder's files."""


def verify_encoder(folder: Path, *, weights: bool) -> Iterator[tuple[Path, str | Exception]]:
    """Yield the problems of a folder of a text encoder: the file, and a sentence or the error of reading it.

    Args:
        folder: the folder of configuration and tokenizer.
        weights: whether the weights must be there as well.
    """
    found: list[tuple[Path, str | Exception]] = [*_missing(folder, weights=weights), *_damaged(folder)]
    yield from found
    if not found and (problem := _vocabulary_problem(folder)):
        yield folder / "tokenizer.json", problem


def _missing(folder: Path, *, weights: bool) -> Iterator[tuple[Path, str]]:
    if not status_of(folder / "config.json"):
        yield folder / "config.json", "config.json is missing"
    if not any(path.is_file() for name in _TOKENIZERS for path in folder.glob(name)):
        yield folder / "tokenizer.json", "a tokenizer is missing (tokenizer.json or vocab.txt)"
    if weights and not status_of(folder / "model.safetensors"):
        yield folder / "model.safetensors", "model.safetensors is missing"


def _damaged(folder: Path) -> Iterator[tuple[Path, Exception]]:
    for path in sorted(folder.glob("*")):
        check = {".json": _check_json, ".safetensors": _check_tensors}.get(path.suffix)
        if check is None or path.name == _OF_RUNS:
            continue
        try:
            if what := obstacle_at(path):
                raise ConkiError(f"{path} must be a file but is {what}")
            check(path)
        except Exception as error:  # on damaged files the libraries raise errors of any kind
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
