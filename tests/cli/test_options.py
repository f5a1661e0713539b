"""The options of a run: they follow from the declarations of the settings, and finished runs refuse them."""

from typing import Any, get_args

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from conki_cli.cli import app, training
from conki_cli.cli.options import EpochsOption, flag_of, run_parameters
from conki_cli.config.declarations import flagged, setting_fields

OF_RESULTS = {"--seed", "--seeds", "--threshold"}
"""What can be chosen for finished runs."""
OPTIONS = {
    get_args(annotation)[1].param_decls or (f"--{name.replace('_', '-')}",): annotation
    for name, (_, annotation) in run_parameters().items()
}
REFUSED = {
    names[0]: annotation
    for names, annotation in {**OPTIONS, ("--epochs",): EpochsOption}.items()
    if names[0] not in OF_RESULTS
}


def words_for(option: str, annotation: Any) -> list[str]:
    """Return an option with a value that it takes."""
    kind = get_args(get_args(annotation)[0])[0]
    if kind is bool:
        return [option]
    choices = get_args(kind)
    values = {"--drop-modality": "text", "--set": "loss.temperature=1", "--epochs": "3", "--limit": "3"}
    return [option, values.get(option, str(choices[-1]) if choices and choices[0] is not str else "x")]


def run(words: list[str]) -> Result:
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize("option", REFUSED)
def test_finished_runs_refuse_every_option_of_training(option: str) -> None:
    found = run(["compare", "one", "other", *words_for(option, REFUSED[option])])
    assert (found.exit_code, f"leave out {option} " in found.stderr) == (1, True), found.output


def test_all_that_decides_a_run_is_among_the_options_that_are_tried() -> None:
    declared = {field.metadata["flag"] for field in flagged().values()} - {"--drop"}  # `compare` has --models instead
    assert declared - OF_RESULTS <= set(REFUSED)
    assert {"--precision", "--cache", "--bucket", "--compile", "--epochs", "--set", "--config"} <= set(REFUSED)


def test_the_help_of_an_option_is_that_of_its_setting() -> None:
    declared = setting_fields()["compute.precision"]
    shown = flag_of("compute.precision")
    assert shown.help.lower() == f"{declared.metadata['help'].lower()}. default: {declared.default}."


def test_the_demo_trains_two_rows_at_once_where_torch_has_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for count in (1, 2, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        found.append(training._side_by_side())
    assert found == [1, 2, 2]
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert training._side_by_side() == 1
