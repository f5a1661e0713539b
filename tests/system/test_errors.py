"""Errors have parts and kinds; the line that is shown is made of them."""

from pathlib import Path

import pytest

from conki_cli.config.resolving import resolve
from conki_cli.data.store.reading import FeatureStore
from conki_cli.system.errors import CheckpointError, ConkiError, Kind, SettingsError, StoreError, UnreadableError
from conki_cli.system.files import read_json


def test_the_line_of_an_error_is_made_of_its_parts() -> None:
    error = StoreError("3 of 4 clips", "prepare it again", must="clips must be whole")
    assert str(error) == "clips must be whole, found 3 of 4 clips: prepare it again"
    assert (error.fact, error.advice) == ("clips must be whole, found 3 of 4 clips", "prepare it again")


def test_an_error_without_advice_is_its_fact() -> None:
    assert (str(ConkiError("no data")), ConkiError("no data").kind) == ("no data", Kind.REFUSED)


def test_a_class_has_a_kind_of_its_own_and_one_error_may_have_another() -> None:
    assert CheckpointError("damaged", "train again").kind is Kind.DAMAGED
    assert CheckpointError("gone", "train again", kind=Kind.MISSING).kind is Kind.MISSING
    assert UnreadableError("the disk failed").kind is Kind.UNREADABLE


def test_a_missing_store_is_of_the_kind_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        FeatureStore(tmp_path / "no.h5")
    assert (caught.value.kind, caught.value.advice) == (
        Kind.MISSING,
        "make it with `conki prepare`, or check the path",
    )


def test_json_that_is_none_is_damaged_and_one_that_is_not_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    kinds = []
    for name in ("a.json", "b.json"):
        with pytest.raises(ConkiError) as caught:
            read_json(tmp_path / name)
        kinds.append(caught.value.kind)
    assert kinds == [Kind.DAMAGED, Kind.MISSING]


def test_a_setting_out_of_bounds_says_what_must_hold_and_what_was_found() -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(assignments=["optimizer.num_epochs=0"])
    assert (caught.value.must, caught.value.found) == ("setting optimizer.num_epochs must be at least 1", "0")
