"""The one table of data sets."""

import pytest

from conki_cli.datasets import DATASETS, OFFICIAL, about, folder_of, is_chinese, of_table, sizes_of


def test_a_data_set_stands_under_its_own_name() -> None:
    assert [row.name for row in DATASETS.values()] == list(DATASETS)


def test_each_published_file_belongs_to_one_data_set() -> None:
    assert sum(len(row.files) for row in DATASETS.values()) == len(OFFICIAL) == 5
    assert OFFICIAL["c9e20c13"] == (DATASETS["sims"], "unaligned_39.pkl")


@pytest.mark.parametrize(("name", "folder"), [("simsv2", "SIMSv2"), ("demo", "demo"), ("mine", "mine")])
def test_the_folder_of_a_data_set_of_ones_own_is_called_like_it(name: str, folder: str) -> None:
    assert folder_of(name) == folder


@pytest.mark.parametrize(("name", "expected"), [("sims", True), ("simsv2", True), ("sims-own", True), ("mosi", False)])
def test_chinese_data_sets_are_those_with_an_english_translation(name: str, expected: bool) -> None:
    assert is_chinese(name) is expected


def test_tables_name_their_data_set_and_those_of_ones_own_have_no_facts() -> None:
    assert [of_table(number) for number in (2, 3, 6)] == ["mosi", "sims", "mosi"]
    assert sizes_of("mine") is None
    assert about("mine") is None
    assert (about("sims") or {})["language"] == "Chinese"
