"""Whether the files of a run that hold no weights are what was written; `training.verifying` adds those that do."""

from collections.abc import Iterator

from conki_cli.runs.extraction import verify_extraction
from conki_cli.runs.folders import is_run_folder
from conki_cli.runs.normalization import verify_scale
from conki_cli.runs.verifying.examined import ExaminedRun, locks_of
from conki_cli.runs.verifying.predictions import verify_metrics, verify_predictions, verify_predictions_of_all
from conki_cli.runs.verifying.settings import (
    verify_data,
    verify_encoder_files,
    verify_learning,
    verify_settings,
    verify_stage_one,
    verify_texts,
)
from conki_cli.system.environment import verify_environments
from conki_cli.system.findings import OK, REMARK, Finding, guarded

__all__ = ["ExaminedRun", "is_run_folder", "locks_of", "verify_encoder_files", "verify_predictions", "verify_record"]


def verify_record(examined: ExaminedRun) -> Iterator[Finding]:
    """Verify what a run says of itself: settings, results, data, predictions, what its seeds recorded."""
    run, result, finished = examined.run, examined.result, examined.finished
    if examined.holder:
        yield Finding(examined.subject, REMARK, f"{examined.holder} is at work on it", "wait for it, and look again")
    if result is not None:
        what = f"{result.label}, stage {1 if result.stage == 'pretrain' else 2} on {result.dataset}"
        yield Finding(examined.subject, OK, f"{what}: {len(finished)} of {len(examined.seeds)} seeds finished")
    parts = [verify_settings(examined)]
    if result is not None:
        parts += [verify_data(examined, result), verify_predictions_of_all(examined)]
        parts += [verify_metrics(examined, result), verify_learning(examined)]
    folders = {seed: run.seed_folder(seed) for seed in examined.seeds}
    recorded = {seed: folder / "environment.json" for seed, folder in folders.items() if folder.is_dir()}
    parts += [verify_scale(run), verify_extraction(run), verify_texts(examined), verify_stage_one(examined)]
    parts.append(verify_environments(run.path, recorded, examined.examination.here))
    for part in parts:
        yield from guarded(run.path, part)
