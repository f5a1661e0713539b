"""Bytes on disk: whole files or none, standard JSON, one writer at a time."""

import hashlib
import json
import math
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conki_cli.errors import ConkiError
from conki_cli.files import (
    append_line,
    atomic_path,
    human_size,
    locked,
    read_json,
    sha256_of,
    size_of,
    to_json,
    write_json,
    write_text,
)


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(f"new {1 / 0}", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "file"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_readers_see_the_old_file_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "file", "text")
    assert (tmp_path / "a" / "b" / "file").read_text(encoding="utf-8") == "text"


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "")
    (tmp_path / "any").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ConkiError, match=r"cannot write .*file: a file may not grow that large") as error:
            write_text(path, "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_a_folder_must_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(ConkiError, match=r"cannot write .*folder"):
        write_text(tmp_path / "runs" / "x", "text")


def test_a_log_that_cannot_grow_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConkiError, match="cannot write"):
        append_line(tmp_path / "missing" / "log", "line")


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    for line in ("one", "zwei ü"):
        append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text(encoding="utf-8").splitlines() == ["one", "zwei ü"]


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(_PLAIN)
def test_plain_values_come_back_from_json(value: object) -> None:
    assert json.loads(to_json(value)) == value


@pytest.mark.parametrize("undefined", [math.nan, math.inf, -math.inf, float(np.float32("nan"))])
def test_undefined_numbers_are_null_at_any_depth(undefined: float) -> None:
    assert json.loads(to_json({"a": [undefined, (1.5, undefined)]})) == {"a": [None, [1.5, None]]}


def test_paths_are_text_in_json(tmp_path: Path) -> None:
    assert json.loads(to_json([tmp_path])) == [str(tmp_path)]


def test_json_comes_back_from_disk(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"ü": [1, None]})
    assert read_json(tmp_path / "x.json") == {"ü": [1, None]}


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff"], ids=["empty", "truncated", "binary"])
def test_a_file_that_is_no_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ConkiError, match=r"x\.json must be JSON but is not .*restore it or delete it") as error:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(error.value)


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConkiError, match=r"cannot read .*x\.json: No such file"):
        read_json(tmp_path / "x.json")


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    lock = tmp_path / "runs" / ".x.lock"
    with (
        locked(lock, what="the run x"),
        pytest.raises(ConkiError, match="another process is writing the run x"),
        locked(lock, what="the run x"),
    ):
        pass
    with locked(lock, what="the run x"):
        pass


def test_a_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"conki" * 100_000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"conki" * 100_000).hexdigest()


def test_the_size_of_a_folder_is_that_of_all_its_files(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "12345")
    write_text(tmp_path / "b" / "c", "123")
    assert (size_of(tmp_path), size_of(tmp_path / "a")) == (8, 5)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (2**30, "1.0 GiB"),
        (2**51, "2048.0 TiB"),
    ],
)
def test_sizes_are_shown_for_people(count: int, shown: str) -> None:
    assert human_size(count) == shown
