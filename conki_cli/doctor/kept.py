"""What a workspace keeps beside stores and runs: states of frozen text encoders, the built-in encoder."""

import json
from collections.abc import Iterator
from pathlib import Path

from conki_cli.doctor.findings import FAULT, Finding, Visit, fault, guarded, ordinary, size_on_disk, tried
from conki_cli.doctor.traces import left_over
from conki_cli.system.errors import quoted
from conki_cli.system.files import read_tensors
from conki_cli.system.locks import holder_of, lock_beside
from conki_cli.system.readable import status_of
from conki_cli.text.vocabulary import vocabulary_problem
from conki_cli.training.state_files import verify_states


def kept_states_findings(path: Path, visit: Visit) -> Iterator[Finding]:
    """Examine a file with the states of a frozen text encoder: every byte against its checksum."""
    if holder := holder_of(lock_beside(path)):
        yield Finding(str(path), "remark", f"{holder} is writing it", "wait for it")
    found, error = tried(verify_states, path, visit.advance)
    if found is not None:
        yield Finding(str(path), "ok", found)
        return
    assert error is not None
    advice = f"delete it: rm {quoted(path)}; the next training that reads it computes it again"
    yield fault(path, error, path, advice)


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
