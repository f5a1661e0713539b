"""Bytes on disk: whole files or none, standard JSON, one writer at a time."""

import errno
import hashlib
import json
import math
import os
import re
import resource
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from process_support import SECONDS

from conki_cli.system.errors import ConkiError, quoted
from conki_cli.system.files import (
    append_line,
    atomic_path,
    read_json,
    sha256_of,
    size_of,
    to_json,
    write_json,
    write_text,
)
from conki_cli.system.locks import PROC_LOCKS, find_holder, locked
from conki_cli.system.readable import human_size, system_error_in

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


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
        with pytest.raises(ConkiError, match=r"cannot write .*file: the file would exceed the allowed size") as error:
            write_text(path, "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full: free some space and run the command again"),
        (errno.EDQUOT, "the disk quota is used up: free some space and run the command again"),
        (errno.EFBIG, r"the file would exceed the allowed size: raise the file size limit \(ulimit -f\)"),
        (errno.EACCES, "writing is not permitted: give your user write permission .* choose another place with .*"),
        (errno.ENOENT, "its folder no longer exists: restore it and run the command again"),
        (errno.EROFS, "the file system is read-only: choose another place with --workspace"),
        (errno.EIO, "Input/output error: nothing was written"),
        (errno.ESTALE, "Stale file handle: nothing was written"),
    ],
)
def test_whatever_a_disk_refuses_is_one_line_and_keeps_the_old_file(number: int, said: str, tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(ConkiError, match=f"cannot write .*file: {said}$"), atomic_path(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["old"]


def fsync_of_folders_failing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the system refuse to flush a folder, as CIFS and shared folders do with EINVAL."""
    fsync = os.fsync

    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, 524])
def test_a_file_system_that_cannot_flush_a_folder_is_no_obstacle(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync_of_folders_failing(monkeypatch, number)
    write_text(tmp_path / "file", "text")
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["text"]


def test_a_disk_that_fails_once_the_file_is_there_is_not_said_to_have_written_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync_of_folders_failing(monkeypatch, errno.EIO)
    with pytest.raises(ConkiError, match=r"file was written, but a power failure .* \(Input/output error\): check the"):
        write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "text"


def test_a_share_that_knows_no_permissions_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "text"


def test_what_rust_says_of_a_disk_in_words_is_understood() -> None:
    assert str(system_error_in(Exception("File too large (os error 27)"))) == "[Errno 27] File too large"
    assert system_error_in(Exception("header too large")) is None


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


# --- locks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "runs" / ".x.lock"


def note_of(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.owner")


def refusal(lock: Path) -> str:
    """Return what is said to who wants a lock that is held."""
    with pytest.raises(ConkiError) as error, locked(lock, what="the run x"):
        pass
    return str(error.value)


@contextmanager
def held_elsewhere(lock: Path) -> Iterator[int]:
    """Let another process, whose id is yielded, hold a lock; it is killed at the end, as by `kill -9`."""
    ready, told = os.pipe()
    if not (child := os.fork()):
        with locked(lock, what="it"):
            os.write(told, b".")
            time.sleep(SECONDS)
        os._exit(0)
    os.read(ready, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


def write_note(lock: Path, **changes: object) -> Path:
    """Write what a process of another machine says beside its lock."""
    facts = {"pid": 7, "host": "far", "started": "2026-01-02 03:04:05 +0000", "command": "conki finetune"}
    lock.parent.mkdir(parents=True, exist_ok=True)
    note_of(lock).write_text(json.dumps({**facts, **changes}), encoding="utf-8")
    return note_of(lock)


def test_a_second_writer_is_refused_until_the_first_is_done(lock: Path) -> None:
    with locked(lock, what="the run x"):
        assert refusal(lock).startswith("another process is writing the run x ")
    with locked(lock, what="the run x"):
        pass
    assert list(lock.parent.iterdir()) == [lock]


def test_who_is_refused_learns_process_machine_time_and_command(lock: Path) -> None:
    with held_elsewhere(lock) as child:
        said = refusal(lock)
    started = r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}, `.+`"
    expected = (
        rf"another process is writing the run x \(process {child} on {re.escape(os.uname().nodename)} {started}\)"
    )
    assert re.fullmatch(rf"{expected}: wait for it or stop it \(lock file {re.escape(str(lock))}\)", said)


def test_the_lock_of_a_process_that_was_killed_is_taken_at_once(lock: Path) -> None:
    with held_elsewhere(lock):
        pass
    assert note_of(lock).exists()  # nobody could remove it
    with locked(lock, what="the run x"):
        assert json.loads(note_of(lock).read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert not note_of(lock).exists()


def test_who_waits_says_for_whom(lock: Path) -> None:
    said: list[str] = []
    with held_elsewhere(lock) as child:

        def say(line: str) -> None:
            said.append(line)
            os.kill(child, signal.SIGKILL)

        with locked(lock, what="the cache", wait=True, say=say):
            pass
    assert len(said) == 1
    assert said[0].startswith(f"another process is writing the cache (process {child} on ")
    assert said[0].endswith("): waiting for it")


HOSTILE_NOTES = {
    "missing": None,
    "empty": b"",
    "cut short": b'{"pid": 1',
    "binary": b"\xff\x00",
    "a list": b"[1]",
    "deep": b"[" * 4000,
    "no pid": b'{"host": "a", "started": "b", "command": "c"}',
    "truth as pid": b'{"pid": true, "host": "a", "started": "b", "command": "c"}',
    "numbers": b'{"pid": 1, "host": 2, "started": 3, "command": 4}',
    "huge": b'{"pid": 1, "host": "a", "started": "b", "command": "' + b"c" * 10_000_000 + b'"}',
}


@pytest.mark.parametrize("kind", HOSTILE_NOTES)
def test_a_note_that_says_nothing_is_no_owner(kind: str, lock: Path) -> None:
    content = HOSTILE_NOTES[kind]
    with locked(lock, what="the run x"):
        note_of(lock).unlink()
        if content is not None:
            note_of(lock).write_bytes(content)
        said = refusal(lock)
    assert said == f"another process is writing the run x: wait for it or stop it (lock file {lock})"


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_a_note_that_is_no_file_is_neither_read_nor_waited_for(kind: str, lock: Path, tmp_path: Path) -> None:
    write_note(tmp_path / "other")
    with locked(lock, what="the run x"):
        note_of(lock).unlink()
        makers = {"pipe": os.mkfifo, "folder": os.mkdir}
        makers.get(kind, lambda path: path.symlink_to(note_of(tmp_path / "other")))(note_of(lock))
        assert "(process" not in refusal(lock)


def test_a_note_cannot_steer_the_terminal_nor_fill_it(lock: Path) -> None:
    with locked(lock, what="the run x"):
        write_note(lock, host="far", command="\x1b[2J\n" + "c" * 3000)
        said = refusal(lock)
    assert said.isprintable()
    assert len(said) < 500


def test_a_link_where_the_note_goes_is_replaced_and_not_followed(lock: Path, tmp_path: Path) -> None:
    lock.parent.mkdir()
    (tmp_path / "precious").write_text("mine", encoding="utf-8")
    note_of(lock).symlink_to(tmp_path / "precious")
    with locked(lock, what="the run x"):
        assert not note_of(lock).is_symlink()
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "mine"


def test_a_disk_without_room_for_the_note_is_no_obstacle(lock: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with locked(lock, what="the run x"):
            assert refusal(lock).startswith("another process is writing the run x: ")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not note_of(lock).exists()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let signs of life come, and be missed, within a tenth of a second."""
    monkeypatch.setattr("conki_cli.system.locks._BEAT", 0.05)


@pytest.mark.usefixtures("quick")
def test_a_machine_whose_locks_are_not_seen_is_believed_while_it_gives_signs_of_life(lock: Path) -> None:
    os.utime(write_note(lock), (time.time() + 3600,) * 2)  # as if it were touched all the time
    said = refusal(lock)
    assert "(process 7 on far since 2026-01-02 03:04:05 +0000, `conki finetune`): wait for it" in said


@pytest.mark.usefixtures("quick")
def test_a_machine_that_gives_no_sign_of_life_any_more_is_waited_for_shortly_and_its_lock_taken(lock: Path) -> None:
    said: list[str] = []
    write_note(lock)
    with locked(lock, what="the run x", say=said.append):
        assert json.loads(note_of(lock).read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert [line.partition(" since")[0] for line in said] == ["another process is writing the run x (process 7 on far"]


@pytest.mark.skipif(not PROC_LOCKS.is_file(), reason="needs the kernel's list of locks")
def test_a_holder_is_found_though_the_kernel_names_another_device(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(lock, what="the run x"):
        note_of(lock).unlink(missing_ok=True)
        listed = PROC_LOCKS.read_text(encoding="ascii")
        (tmp_path / "locks").write_text(re.sub(r" [0-9a-f]+:[0-9a-f]+:(\d+) ", r" 00:7f:\1 ", listed), encoding="ascii")
        monkeypatch.setattr("conki_cli.system.locks.PROC_LOCKS", tmp_path / "locks")  # as on btrfs
        holder = find_holder(lock)
    assert (holder and holder.pid) == os.getpid()


def test_an_old_note_of_another_machine_is_not_waited_for(lock: Path) -> None:
    os.utime(write_note(lock), (time.time() - 3600,) * 2)
    with locked(lock, what="the run x", say=pytest.fail):
        pass


@pytest.mark.parametrize("facts", [{}, {"lock": "file"}])
def test_signs_of_life_are_dated_by_the_file_system_and_looking_touches_nothing(
    facts: dict[str, str], lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = write_note(lock)
    note.write_text(json.dumps({**json.loads(note.read_text(encoding="utf-8")), **facts}), encoding="utf-8")
    lock.touch()
    os.utime(lock, (0, 0))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)  # this machine's clock is fast
    holder = find_holder(lock)
    assert holder is not None
    assert (holder.pid, holder.host, lock.stat().st_mtime) == (7, "far", 0)


@pytest.mark.usefixtures("quick")
def test_who_holds_a_lock_gives_signs_of_life(lock: Path) -> None:
    with locked(lock, what="the run x"):
        os.utime(note_of(lock), (0, 0))
        for _ in range(int(SECONDS / 0.01)):
            time.sleep(0.01)
            if note_of(lock).stat().st_mtime > 0:
                return
    pytest.fail("the note was never touched")


# --- sizes and checksums -----------------------------------------------------------------------------------------


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


@given(st.text(max_size=12))
def test_a_quoted_word_is_the_same_word_for_the_shell(word: str) -> None:
    word = word.replace("\0", "")
    assert quoted(word).isprintable()
    printed = subprocess.run(
        ["bash", "-c", f"printf %s {quoted(word)}"], capture_output=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert os.fsdecode(printed.stdout) == word
