"""Cells in a line of a table: how they are separated, and which of them are numbers."""

import csv
import re

SEPARATOR_LINE = re.compile(r'"?sep=([;,|:\t])"?', re.IGNORECASE)
"""The first line of tables for Excel."""
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
NOT_A_NUMBER = frozenset(
    {"", "na", "n/a", "#n/a", "null", "none", "nan", "-nan", "1.#ind", "-1.#ind", "1.#qnan", "?", "--undefined--"}
)
"""Cells without a value, lowercase; the last two are ARFF's and Praat's."""


def is_blank(line: str, separator: str | None) -> bool:
    """Say whether a line is not a row; tabs between empty cells are one."""
    return not line.strip(" \r\n" if separator == "\t" else None)


def cells_of(line: str, separator: str | None, quote: str = '"') -> list[str]:
    """Split a line into its cells, without blanks around them; separator None: blanks."""
    if separator is None:
        return [cell.strip('"') for cell in line.split()]
    reader = csv.reader([line.rstrip("\r\n")], delimiter=separator, quotechar=quote, skipinitialspace=True)
    return [cell.strip() for cell in next(reader, [])]


def cell_at(line: str, separator: str | None, column: int, quote: str = '"') -> str:
    """Return one cell of a line."""
    if quote in line:
        return cells_of(line, separator, quote)[column]
    return line.split(separator, column + 1)[column].strip()


def num_cells(line: str, separator: str | None, quote: str = '"') -> int:
    """Count the cells of a line."""
    if separator is None:
        return len(line.split())
    return len(cells_of(line, separator, quote)) if quote in line else line.count(separator) + 1


def separator_of(line: str) -> str | None:
    """Guess what separates the cells of a line: a semicolon, a tab, a comma, or None for blanks."""
    return next((sign for sign in (";", "\t") if sign in line.strip("\r\n ")), "," if _has_commas(line) else None)


def _has_commas(line: str) -> bool:
    """Say whether commas separate cells; in numbers separated by blanks they are decimal signs."""
    words = line.split()
    return "," in line and not (len(words) > 1 and all(is_number(word, ",") for word in words))


def is_number(cell: str, decimal: str = ".") -> bool:
    """Say whether a cell is a number, or has no value."""
    if cell.lower() in NOT_A_NUMBER:
        return True
    try:
        float(cell.replace(",", ".") if decimal == "," else cell)
    except ValueError:
        return False
    return "_" not in cell  # Python allows it between digits
