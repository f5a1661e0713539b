"""Run folders: names, states, results, stored predictions. No tensors here.

`runs/<name>/` holds config.toml, result.json, normalization.json (the scale of its training frames), extraction.json
(how they were made of videos), encoder/ (the text encoder's tokenizer and settings) and one `seed-N/` per seed with
environment.json, metrics.jsonl, result.json, predictions/<split>.csv and checkpoints/.
"""

from conki_cli.runs.catalogue import Runs, check_settings
from conki_cli.runs.clips import clips_of
from conki_cli.runs.differences import nearest_finished
from conki_cli.runs.discarding import discard_run
from conki_cli.runs.extraction import read_extraction, recipe_of, used_frames, write_extraction
from conki_cli.runs.folders import Run, check_is_file
from conki_cli.runs.learning import learning_warnings, left_out_note, median_of
from conki_cli.runs.log import MetricsLog, logged_epochs
from conki_cli.runs.naming import check_name, default_name, digest_of
from conki_cli.runs.normalization import in_training_scale, read_scale, write_scale
from conki_cli.runs.predictions import (
    Predictions,
    common_threshold,
    evaluate_predictions,
    evaluate_run,
    measure_again,
    read_predictions,
    stored_predictions,
    write_predictions,
    write_scores,
)
from conki_cli.runs.records import RUN_SCHEMA, Constant, Evaluation, Median, RunRecord, SeedResult
from conki_cli.runs.writing import check_data, finish_run, open_run

__all__ = [
    "RUN_SCHEMA",
    "Constant",
    "Evaluation",
    "Median",
    "MetricsLog",
    "Predictions",
    "Run",
    "RunRecord",
    "Runs",
    "SeedResult",
    "check_data",
    "check_is_file",
    "check_name",
    "check_settings",
    "clips_of",
    "common_threshold",
    "default_name",
    "digest_of",
    "discard_run",
    "evaluate_predictions",
    "evaluate_run",
    "finish_run",
    "in_training_scale",
    "learning_warnings",
    "left_out_note",
    "logged_epochs",
    "measure_again",
    "median_of",
    "nearest_finished",
    "open_run",
    "read_extraction",
    "read_predictions",
    "read_scale",
    "recipe_of",
    "stored_predictions",
    "used_frames",
    "write_extraction",
    "write_predictions",
    "write_scale",
    "write_scores",
]
