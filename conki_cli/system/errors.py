"""Errors that a user can fix: one line that says what must hold, what was found and what to do."""

import shlex
from collections.abc import Iterable
from enum import Enum
from itertools import islice
from typing import Any


class Kind(Enum):
    """The kind of problem, independent of the thing that has it."""

    REFUSED = "it cannot be used in this form"
    MISSING = "it is missing"
    DAMAGED = "it is not what was written"
    CONTRADICTED = "another file contradicts it"
    NEWER = "a later version wrote it"
    UNREADABLE = "the system could not read it, so its content is unknown"


class ConkiError(Exception):
    """An error that a user can fix; the program prints its one line and exits with code 1."""

    kind = Kind.REFUSED

    def __init__(self, found: str, advice: str = "", *, must: str = "", kind: Kind | None = None) -> None:
        """Build the line from its parts; without `must`, `found` is a sentence that also says what must hold."""
        self.must, self.found, self.advice = must, found, advice
        self.kind = self.kind if kind is None else kind
        super().__init__(f"{self.fact}: {advice}" if advice else self.fact)

    @property
    def fact(self) -> str:
        """What must hold and what was found, without what to do."""
        return f"{self.must}, found {self.found}" if self.must else self.found


class SettingsError(ConkiError):
    """A setting, switch or preset that does not exist or cannot have this value."""


class SourceError(ConkiError):
    """A raw data file that cannot be read, is refused, or contradicts itself."""


class StoreError(ConkiError):
    """A feature store that is missing, damaged, of another schema, or does not fit the run."""


class EncoderError(ConkiError):
    """A text encoder that cannot be found, loaded or used."""


class RunError(ConkiError):
    """A run folder that is missing, unfinished, or holds another configuration."""


class CheckpointError(RunError):
    """A checkpoint that is missing or damaged, so that another one may replace it."""

    kind = Kind.DAMAGED


class UnreadableError(StoreError, RunError, EncoderError, SourceError):
    """Something that exists but that the system could not read: it may be intact, so it must not be replaced.

    It belongs to every kind of thing that is read from the disk. It is not a CheckpointError, so nothing replaces it.
    """

    kind = Kind.UNREADABLE


def one_line(text: str) -> str:
    """Return `text` on one line, with a question mark for every character that could control a terminal."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def quoted(word: object) -> str:
    """Quote a word for a shell; with the escapes of bash if it would not stay on one line."""
    text = str(word)
    return shlex.quote(text) if text.isprintable() else "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a path that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    if character.isprintable():
        return character
    return {"\n": "\\n", "\t": "\\t"}.get(character, f"\\x{number:02x}" if number < 0x80 else f"\\U{number:08x}")


def reason_of(error: BaseException, longest: int = 160) -> str:
    """Return the message of a library's error, on one line and truncated; its type if it has no message."""
    return one_line(str(error)[:1000]).strip("'\" ")[:longest] or type(error).__name__


def names_of(keys: Iterable[Any]) -> str:
    """Render a file's keys for a message, so that they cannot break the line or control the terminal."""
    shown = [key.decode("ascii", "replace") if isinstance(key, bytes) else key for key in islice(keys, 20)]
    words = [key[:40] if isinstance(key, str) and key.isprintable() else "?" for key in shown]
    return ", ".join(words) or "nothing"
