"""Run folders: names, states, results, stored predictions. No tensors here.

`runs/<name>/` holds config.toml, result.json, normalization.json (the scale of its training frames), extraction.json
(how they were made of videos), encoder/ (tokenizer and configuration of the text encoder) and one
`seed-N/` per seed with environment.json, metrics.jsonl, result.json, predictions/<split>.csv and checkpoints/.
"""

from conki_cli.runs.differences import nearest_finished
from conki_cli.runs.extraction import read_extraction, recipe_of, used_frames, write_extraction
from conki_cli.runs.folders import (
    RUN_SCHEMA,
    Run,
    check_data,
    check_is_file,
    check_name,
    damaged_runs,
    default_name,
    describe_runs,
    digest_of,
    discard_run,
    find_run,
    finish_run,
    list_runs,
    locate_run,
    open_run,
)
from conki_cli.runs.learning import learning_warnings, median_of
from conki_cli.runs.normalization import in_training_scale, read_scale, write_scale
from conki_cli.runs.predictions import (
    Predictions,
    common_threshold,
    evaluate_run,
    measure_again,
    read_predictions,
    stored_predictions,
    write_predictions,
    write_scores,
)

__all__ = [
    "RUN_SCHEMA",
    "Predictions",
    "Run",
    "check_data",
    "check_is_file",
    "check_name",
    "common_threshold",
    "damaged_runs",
    "default_name",
    "describe_runs",
    "digest_of",
    "discard_run",
    "evaluate_run",
    "find_run",
    "finish_run",
    "in_training_scale",
    "learning_warnings",
    "list_runs",
    "locate_run",
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
