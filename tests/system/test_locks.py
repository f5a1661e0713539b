"""Locks where the file system has none: a file that names its process, and who may take its place."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from conki_cli.cli.screen import Screen
from conki_cli.system.errors import ConkiError
from conki_cli.system.locks import _touch, holder_of, lock_beside, locked
from conki_cli.text.translation import _opened

pytestmark = pytest.mark.usefixtures("without_locks")


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, 524])
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system refuse locks, and let signs of life come and be missed within a tenth of a second."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr("conki_cli.system.locks._BEAT", 0.05)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "runs" / ".x.lock"


def note_of(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.owner")


def write_note(lock: Path, **facts: object) -> Path:
    lock.parent.mkdir(exist_ok=True)
    known = {"pid": 7, "host": os.uname().nodename, "started": "2026-01-02", "command": "conki x", "lock": "file"}
    note_of(lock).write_text(json.dumps({**known, **facts}), encoding="utf-8")
    return note_of(lock)


def ended_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_second_writer_is_refused_and_told_who_the_first_is(lock: Path) -> None:
    with (
        locked(lock, what="the run x"),
        pytest.raises(ConkiError, match="another process is writing the run x") as error,
        locked(lock, what="the run x"),
    ):
        pass
    assert f"(process {os.getpid()} on {os.uname().nodename} since " in str(error.value)
    assert not note_of(lock).exists()


def test_the_lock_of_a_process_that_is_gone_is_taken_at_once(lock: Path) -> None:
    write_note(lock, pid=ended_pid())
    with locked(lock, what="the run x"):
        assert json.loads(note_of(lock).read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert [path.name for path in lock.parent.iterdir()] == [lock.name]


def test_another_process_with_the_number_of_one_that_is_gone_holds_nothing(lock: Path) -> None:
    write_note(lock, pid=os.getppid(), born="1")
    with locked(lock, what="the run x"):
        assert json.loads(note_of(lock).read_text(encoding="utf-8"))["pid"] == os.getpid()


@pytest.mark.parametrize("facts", [{"host": "far"}, {"place": "another container"}])
def test_a_process_that_is_not_seen_here_is_believed_while_it_gives_signs_of_life(
    facts: dict[str, str], lock: Path
) -> None:
    note, ended = write_note(lock, **facts), threading.Event()
    thread = threading.Thread(target=_touch, args=(note, ended))
    thread.start()
    try:
        with pytest.raises(ConkiError, match=r"\(process 7 on ") as error, locked(lock, what="the run x"):
            pass
    finally:
        ended.set()
        thread.join()
    assert "wait for it or stop it" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"host": "far", "pid": 7}'])
def test_a_note_that_nobody_touches_any_more_is_taken(content: bytes, lock: Path) -> None:
    lock.parent.mkdir()
    note_of(lock).write_bytes(content)
    with locked(lock, what="the run x"):
        assert json.loads(note_of(lock).read_text(encoding="utf-8"))["pid"] == os.getpid()


def test_who_waits_gets_the_lock_when_the_other_is_done(lock: Path) -> None:
    said: list[str] = []
    note = write_note(lock, pid=os.getpid())

    def say(line: str) -> None:
        said.append(line.partition(" (")[0])
        if said[-1].startswith("another process"):  # only now: a slow machine must not look too late
            note.unlink()

    with locked(lock, what="the cache", wait=True, say=say):
        assert note.exists()
    assert said[1:] == ["another process is writing the cache"]


def test_only_one_of_many_takes_a_lock_that_is_stale(lock: Path) -> None:
    write_note(lock, pid=ended_pid())
    inside, most = [0], [0]

    def take() -> None:
        with locked(lock, what="x", wait=True):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            inside[0] -= 1

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_the_cache_of_translations_needs_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    cache = tmp_path / "c ?#%.sqlite"
    with _opened(cache) as connection:
        connection.execute("INSERT INTO translations VALUES ('m', 'a', 'b', 0)")
        connection.commit()
        with (
            pytest.raises(ConkiError, match="another process is writing the cache"),
            locked(lock_beside(cache), what="the cache"),
        ):
            pass
    with _opened(cache) as connection:
        assert connection.execute("SELECT translation FROM translations").fetchall() == [("b",)]


def test_what_is_not_guarded_is_said_once_by_a_screen(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(json=False)
    for name in (".x.lock", ".y.lock"):
        with locked(lock.with_name(name), what="it", say=screen.say):
            pass
    said = capsys.readouterr().err
    assert said.count("warning: this file system has no locks") == 1
    assert "does not protect from other programs that write into a store" in said


def test_the_doctor_names_the_process_that_holds_such_a_lock(lock: Path) -> None:
    assert holder_of(lock) == ""
    with locked(lock, what="the run x"):
        assert holder_of(lock).startswith(f"process {os.getpid()} on {os.uname().nodename}")
    write_note(lock, pid=ended_pid())
    assert holder_of(lock) == ""
