"""Exported tables whose names come from hostile files: they show the name and do nothing else."""

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from conki_cli.reporting.tables.export import export_table
from conki_cli.reporting.tables.grid import Row, TableInfo

HOSTILE = [
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![x](http://example.org/x.png)",
    "<img src=x onerror=alert(1)>",
    "$\\input{/etc/passwd}$ \\write18{ls} %",
    "\u202eevil\u2066",
    "a\x00b\x1b[31m",
    "~~x~~ `x` **x** &lt;b&gt;",
    "x" * 10_000,
]
every_name = pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))


def exported(name: str, path: Path) -> str:
    info = TableInfo(name, "test", "all", (1,), 686, notes=[name])
    rows = [Row(name, {"mae": [0.5]}, run=name, note=name, seeds=(1,)), Row("ConKI", {"mae": [0.4]}, seeds=(1,))]
    export_table(rows, info, path)
    return path.read_text(encoding="utf-8")


@every_name
def test_markdown_shows_the_name_and_has_no_link_image_or_element_of_it(name: str, tmp_path: Path) -> None:
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(exported(name, tmp_path / "table.md"))
    assert not [tag for tag in ("<a", "<img", "<script", "<s>", "<code", 'javascript:alert(1)"') if tag in page]
    assert page.count("<td") == 4  # two lines of two cells


@every_name
def test_csv_has_no_cell_that_a_spreadsheet_computes(name: str, tmp_path: Path) -> None:
    rows = list(csv.reader(io.StringIO(exported(name, tmp_path / "table.csv"))))
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.lstrip()[:1] in ("=", "@") or "\x00" in cell]
    assert len({len(row) for row in rows}) == 1


@every_name
def test_latex_has_no_command_that_the_name_brings(name: str, tmp_path: Path) -> None:
    text = exported(name, tmp_path / "table.tex")
    assert r"\input" not in text
    assert r"\write" not in text
    assert text.isprintable() or all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a LaTeX (pdflatex)")
def test_latex_compiles_with_every_hostile_name(tmp_path: Path) -> None:
    tables = "\n".join(exported(name, tmp_path / "table.tex") for name in HOSTILE)
    source = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{tables}\end{{document}}"
    (tmp_path / "all.tex").write_text(source, encoding="utf-8")
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
