"""Texts and names from data files, on their way to a program that would interpret them: a spreadsheet, a browser."""

import re

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, the marks that force a direction of writing, and what is no character at all."""
_FORMULA = re.compile(r"[\s\x00-\x1f]*(?:[=@\t\r\uff1d\uff20]|[-+\uff0d\uff0b].*[(|!=]|[\t\r])", re.DOTALL)
"""What a spreadsheet computes. Ids such as -3g5yACwYnA$_$3 begin with a sign too: they compute nothing and stay."""


def visible(text: str, instead: str = "\N{REPLACEMENT CHARACTER}") -> str:
    """Return `text` with a visible character in place of those that steer a program or reorder what stands beside."""
    return _UNSEEN.sub(instead, text)


def spreadsheet_cell(text: str) -> str:
    """Return `text` so that a spreadsheet shows it and computes nothing: with an apostrophe before a formula."""
    return f"'{text}" if _FORMULA.match(text.lstrip("'")) else text


def from_spreadsheet_cell(cell: str) -> str:
    """Return the text of which `spreadsheet_cell` made this cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell.lstrip("'")) else cell
