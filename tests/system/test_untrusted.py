"""Hostile ids and texts: what a spreadsheet would compute, what reorders a line, what cannot be seen."""

import csv
from pathlib import Path

import numpy as np
import pytest

from conki_cli.runs import Predictions, read_predictions, write_predictions, write_scores
from conki_cli.system.untrusted import from_spreadsheet_cell, spreadsheet_cell, visible

FORMULAS = [
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "+2+5+cmd|' /C calc'!A0",
    "-2+3+HYPERLINK(1)",
    " =1+1",
    "\t=1+1",
    "\r=1",
    "\x00=1",
    "＝1+1",
    "'=1+1",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text_and_comes_back(text: str) -> None:
    cell = spreadsheet_cell(text)
    assert cell == f"'{text}"
    assert from_spreadsheet_cell(cell) == text


@pytest.mark.parametrize("text", ["-3g5yACwYnA$_$3", "fine", "", "-1.5", "'quoted'", "a=b", "\N{BULLET} (so) =)"])
def test_what_computes_nothing_stays_as_it_is(text: str) -> None:
    assert spreadsheet_cell(text) == text
    assert from_spreadsheet_cell(text) == text


def test_stored_predictions_hold_no_formula_and_give_their_ids_back(tmp_path: Path) -> None:
    ids = [*FORMULAS, "-3g5yACwYnA$_$3"]
    column = np.zeros(len(ids), dtype=np.float32)
    write_predictions(tmp_path / "test.csv", Predictions(ids, column, column))
    with (tmp_path / "test.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    assert [row[0][0] for row in rows] == ["'"] * len(FORMULAS) + ["-"]
    assert list(read_predictions(tmp_path / "test.csv").ids) == ids


def test_scores_of_new_clips_hold_no_formula(tmp_path: Path) -> None:
    clip = {"id": "=1+1", "text": "@SUM(A1)\x00\u202e", "prediction": -0.5, "by_seed": {"1": -0.5}}
    write_scores(tmp_path / "scores.csv", {"seeds": [1], "clips": [clip]})
    lines = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "id,text,prediction,seed_1",
        "'=1+1,'@SUM(A1)\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER},-0.5,-0.5",
    ]


def test_control_characters_become_visible_and_letters_of_every_script_stay() -> None:
    assert visible("a\x00b\x1b[31m\u202eevil\u2066") == "a\ufffdb\ufffd[31m\ufffdevil\ufffd"
    assert visible("שלום \u200f مرحبا\n你好 👍🏽\tü") == "שלום \u200f مرحبا\n你好 👍🏽\tü"
