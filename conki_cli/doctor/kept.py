"""What a workspace keeps beside stores and runs: states of frozen text encoders, the built-in encoder."""

from collections.abc import Iterator
from pathlib import Path

from conki_cli.doctor.findings import FAULT, Finding, Visit, fault, guarded, size_on_disk, tried
from conki_cli.doctor.traces import left_over
from conki_cli.system.errors import quoted
from conki_cli.system.locks import holder_of, lock_beside
from conki_cli.text.verifying import verify_encoder
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
    for path, problem in verify_encoder(folder, weights=weights):
        if isinstance(problem, Exception):
            yield fault(folder, problem, path, advice)
        else:
            yield Finding(str(folder), FAULT, problem, advice)


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
