"""Make texts and names from data files safe for programs that interpret them: spreadsheets, browsers."""

import re

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, marks that force a writing direction, and code points that are not characters."""
_FORMULA = re.compile(r"[\s\x00-\x1f]*(?:[=@\t\r\uff1d\uff20]|[-+\uff0d\uff0b].*[(|!=]|[\t\r])", re.DOTALL)
"""Formulas of a spreadsheet. Ids such as -3g5yACwYnA$_$3 also start with a sign, but are not formulas and stay."""


def visible(text: str, instead: str = "\N{REPLACEMENT CHARACTER}") -> str:
    """Return `text` with a visible replacement for characters that control a program or reorder nearby text."""
    return _UNSEEN.sub(instead, text)


def spreadsheet_cell(text: str) -> str:
    """Return `text` so that a spreadsheet shows it without computing it: a formula gets an apostrophe."""
    return f"'{text}" if _FORMULA.match(text.lstrip("'")) else text


def from_spreadsheet_cell(cell: str) -> str:
    """Return the text that `spreadsheet_cell` turned into this cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell.lstrip("'")) else cell
