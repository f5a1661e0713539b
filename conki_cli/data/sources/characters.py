"""Characters that were lost or damaged on their way into a text: repaired if there is only one possible reading.

Repaired: HTML entities (&amp;amp; and &amp;#39;); UTF-8 that was read as Latin-1 or Windows-1252 ('â€™'); characters of
Windows-1252 that were read as Latin-1, which become control characters and which tokenizers drop silently.
Counted, but not repaired: U+FFFD, which may replace any character; other control characters; and the errors that Excel
writes instead of a text that starts with - or =.
"""

import html
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html.entities import html5

from conki_cli.data.store.records import Corpus, counted
from conki_cli.datasets import DATASETS

_ENTITY = re.compile(r"&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_MOST_PASSES = 5
"""How often a text may have been escaped: &amp;amp;amp; is also an ampersand."""
_UNDEFINED = (0x81, 0x8D, 0x8F, 0x90, 0x9D)
"""Bytes that are undefined in Windows-1252."""
_WINDOWS = {byte: bytes([byte]).decode("cp1252") for byte in range(0x80, 0xA0) if byte not in _UNDEFINED}
_BYTES = {**{chr(byte): byte for byte in range(0x80, 0x100)}, **{letter: byte for byte, letter in _WINDOWS.items()}}
_AFTER_LEAD = "".join(re.escape(letter) for letter, byte in _BYTES.items() if 0x80 <= byte < 0xC0)
_UTF8 = re.compile(f"[\xc2-\xdf][{_AFTER_LEAD}]|[\xe0-\xef][{_AFTER_LEAD}]{{2}}|[\xf0-\xf4][{_AFTER_LEAD}]{{3}}")
_C1 = re.compile("[\x80-\x9f]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_BEHIND_A = set("¡¢£¤¥¦§¨©ª¬®¯°±²³´µ¶¸¹º¼½¾¿‰ˆ˜™ŠŒŽšœžŸƒ€")
"""Characters that follow an A with a circumflex or tilde in no language (unlike, for example, quotation marks)."""
_BEHIND_CIRCUMFLEX = (0x80, 0x82, 0x84, 0x86, 0x88, 0x99)
"""Second bytes of quotation marks, dashes and signs from U+2000 on, whose first byte is read as 'â'."""
_PUNCTUATION = {0x82, 0x84, 0x85, 0x8B, *range(0x91, 0x98), 0x9B}
"""Quotation marks, dashes and dots of Windows-1252, which may follow a word in capitals."""
_PROOF = 3
"""Characters of UTF-8 that show that the whole text is UTF-8."""
EXCEL_ERROR = re.compile(r"#[A-Z0/¿¡]+ ?[?!]|#N/A")
"""#NAME? for '-abc' and '=abc', also in other languages."""

REPAIRS = {
    "entities": "entities of HTML",
    "utf8": "UTF-8 that was read as Latin-1 or Windows-1252",
    "cp1252": "characters of Windows-1252 that were read as Latin-1",
}
"""Kinds of repaired damage, by their names in the report."""
LOSSES = {
    "lost": "lost characters (U+FFFD)",
    "controls": "control characters that tokenizers drop",
    "excel": "only an error that Excel wrote instead of the text",
}
"""Kinds of damage that cannot be repaired."""


@dataclass(frozen=True)
class Repaired:
    """Repaired texts, and the number of texts with each kind of damage (`REPAIRS`, `LOSSES`)."""

    texts: list[str]
    counts: Mapping[str, int]

    def remarks(self) -> list[str]:
        """Describe the repairs."""
        return [
            f"repaired {counted(self.counts[name], 'text')} with {what}"
            for name, what in REPAIRS.items()
            if self.counts.get(name)
        ]

    def warnings(self) -> list[str]:
        """Describe the damage that could not be repaired."""
        return [
            f"{counted(self.counts[name], 'text')} with {what}: check the file that the texts come from"
            for name, what in LOSSES.items()
            if self.counts.get(name)
        ]


def repair(texts: Sequence[str]) -> Repaired:
    """Repair texts, one per clip, and count repairs and remaining damage."""
    known: dict[str, tuple[str, tuple[str, ...]]] = {}  # a file may refer to one long text many times
    counts: Counter[str] = Counter()
    made = []
    for text in texts:
        if text not in known:
            known[text] = _repaired(text)
        better, faults = known[text]
        counts.update(faults)
        made.append(better)
    return Repaired(made, dict(counts))


def _repaired(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a repaired text, and the names of its kinds of damage."""
    found: list[str] = []
    for _ in range(_MOST_PASSES):  # a text may have been damaged twice
        before = text
        for name, step in _STEPS.items():
            if (better := step(text)) != text:
                text = better
                found += [name] if name not in found else []
        if text == before:
            break
    if "\ufffd" in text:
        found.append("lost")
    if _CONTROLS.search(text):
        found.append("controls")
    if EXCEL_ERROR.fullmatch(text):
        found.append("excel")
    return text, tuple(found)


def with_repaired_texts(corpus: Corpus) -> Corpus:
    """Repair the texts of a corpus; remarks describe the repairs, notes the remaining damage.

    Characters that were lost before a data set was published are only a remark: nobody has them.
    """
    done = repair([sample.text for part in corpus.splits.values() for sample in part])
    remarks, warnings = done.remarks(), done.warnings()
    published = DATASETS[corpus.dataset].lost_texts if corpus.dataset in DATASETS else 0
    if 0 < (lost := done.counts.get("lost", 0)) <= published:
        remarks.append(f"as published: {counted(lost, 'text')} with {LOSSES['lost']}")
        warnings = replace(done, counts={**done.counts, "lost": 0}).warnings()
    found = iter(done.texts)
    splits = {
        split: [sample if (text := next(found)) == sample.text else replace(sample, text=text) for sample in part]
        for split, part in corpus.splits.items()
    }
    return replace(
        corpus,
        splits=splits,
        remarks=(*corpus.remarks, *remarks),
        notes=(*corpus.notes, *warnings),
        repaired={**corpus.repaired, **({"text": done.counts} if done.counts else {})},
    )


# ---- entities ----


def _without_entities(text: str) -> str:
    if "&" not in text:
        return text
    for _ in range(_MOST_PASSES):
        better = _ENTITY.sub(_character_of, text)
        if better == text:
            break
        text = better
    return text


def _character_of(found: re.Match[str]) -> str:
    """Return the characters of an entity, or the entity itself if it is unknown."""
    name = found[1]
    if not name.startswith("#") and f"{name};" not in html5:
        return found[0]
    made = html.unescape(found[0])
    if made.isspace():  # &nbsp; and line breaks: blanks between words
        return " "
    return made if made and made != "\ufffd" and not _CONTROLS.search(made) else found[0]


# ---- encodings ----


def _from_utf8(text: str) -> str:
    """Decode misread UTF-8: the whole text if that is certain, else only its unmistakable characters."""
    if text.isascii():
        return text
    data = _bytes_of(text)
    if data is not None and len(_UTF8.findall(text)) >= _PROOF:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return _UTF8.sub(_decoded, text)


def _bytes_of(text: str) -> bytes | None:
    """Return the bytes that were read as Latin-1 or Windows-1252; None if other characters occur."""
    codes = [ord(letter) if letter.isascii() else _BYTES.get(letter, -1) for letter in text]
    return None if -1 in codes else bytes(codes)


def _decoded(found: re.Match[str]) -> str:
    letters = found[0]
    data = bytes(_BYTES[letter] for letter in letters)
    if len(data) == 2:
        is_sure = _is_sure(letters, data[1], found.string[found.start() - 1 : found.start()])
    elif len(data) == 3:
        is_sure = letters[0] == "â" and data[1] in _BEHIND_CIRCUMFLEX
    else:
        is_sure = letters[0] == "ð" and data[1] == 0x9F  # emoji
    try:
        return data.decode() if is_sure else letters
    except UnicodeDecodeError:
        return letters


def _is_sure(letters: str, second: int, before: str) -> bool:
    """Say whether two letters can only be one UTF-8 character, and not an accented capital before a quotation mark."""
    is_lead = letters[0] in "ÂÃ"
    is_control = _C1.match(letters[1]) is not None
    if before.islower():
        return is_lead or is_control
    if is_lead and is_control:
        return not before.isupper() or second not in _PUNCTUATION
    return is_lead and letters[1] in _BEHIND_A


def _from_windows(text: str) -> str:
    return _C1.sub(_windows, text)


def _windows(found: re.Match[str]) -> str:
    """Return the Windows-1252 character; keep the control character if there is none or another reading is likely."""
    letter = _WINDOWS.get(ord(found[0]))
    before = found.string[found.start() - 1 : found.start()]
    is_unlikely = letter is None or (letter.isupper() and before.islower())  # a capital inside a word
    if is_unlikely or any(_UTF8.match(found.string, found.start() - back) for back in (1, 2) if found.start() >= back):
        return found[0]
    return letter or found[0]


_STEPS: dict[str, Callable[[str], str]] = {
    "entities": _without_entities,
    "utf8": _from_utf8,
    "cp1252": _from_windows,
}
