"""README and docs against the program: commands, links, names, numbers."""

import ast
import itertools
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from conki_cli.cli import app
from conki_cli.config.declarations import setting_fields
from conki_cli.config.resolving import parse_switches, resolve
from conki_cli.config.sections import SECTIONS
from conki_cli.config.words import parse_seeds
from conki_cli.data.store.records import FORMAT

ROOT = Path(__file__).parents[1]
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", ".github/SECURITY.md")
"""Pages of the documentation that lie where people and GitHub look for them."""
PAGES = [ROOT / "README.md", *(ROOT / name for name in OUTSIDE), *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [page for page in PAGES if page.name != "commands.md"]
COMMANDS: Any = typer.main.get_command(app)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

in_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
in_every_written_page = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)


def command_lines(page: Path) -> Iterator[list[str]]:
    """Yield the words of every `conki ...` line in code blocks and in running text."""
    text = page.read_text(encoding="utf-8")
    blocks = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()[1:-1]]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    for line in itertools.chain(blocks, inline):
        for part in re.split(r"&&|;", line):
            if re.match(r"conki \S", part.strip()) and part != FORMAT:
                yield shlex.split(part, comments=True)[1:]


def complaint(words: list[str]) -> str:
    """Say what the program dislikes about a command line; running text may leave required options out."""
    name, *rest = words
    if name.startswith("--"):
        return "" if name in ("--help", "--version") else f"no such option {name}"
    if name not in COMMANDS.commands and name != "COMMAND":
        return f"no such command {name}"
    if name == "COMMAND" or "--help" in rest:
        return ""
    try:
        COMMANDS.commands[name].make_context(name, rest)
    except Exception as error:  # Typer's errors have moved between modules from version to version
        return "" if type(error).__name__ == "MissingParameter" else str(error)
    return ""


def values_of(option: str, page: Path) -> list[str]:
    return [value for words in command_lines(page) for flag, value in itertools.pairwise(words) if flag == option]


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def readme_tree() -> dict[str, str]:
    """Return path -> remark of the tree in README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"^```\nconki_cli/\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert lines, "README.md must hold the tree of conki_cli"
    folder, tree = "", {}
    for line in lines[1].splitlines():
        name, _, remark = line.strip().partition(" ")
        if line.startswith("    "):
            tree[folder + name] = remark.strip()
        elif name.endswith("/"):
            folder = name
        else:
            tree[name] = remark.strip()
    return tree


def table_rows(page: str) -> list[list[str]]:
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_commands_page_is_what_the_generator_writes() -> None:
    generated = runpy.run_path(str(ROOT / "docs" / "generate_commands.py"))["page"]()
    committed = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert generated == committed, "docs/commands.md is out of date: run `python docs/generate_commands.py`"


def test_the_generator_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    page = runpy.run_path(str(ROOT / "docs" / "generate_commands.py"))["page"]
    wide = page()
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("CONKI_WORKSPACE", "/elsewhere")
    assert page() == wide


@in_every_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if not path.startswith("http"):
            target = page.parent / path if path else page
            assert target.is_file(), f"{page.name} links to {link}, which does not exist"
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", target.read_text(encoding="utf-8")), re.MULTILINE)
            assert not anchor or anchor in map(slug, headings), f"{page.name} links to {link}: no such heading"


@in_every_written_page
def test_every_command_line_parses(page: Path) -> None:
    wrong = [f"conki {shlex.join(words)}: {why}" for words in command_lines(page) if (why := complaint(words))]
    assert not wrong


def test_a_mistyped_option_in_a_page_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Try `conki finetune --epoch 3`.\n\n```\nconki inspekt mosi\n```\n", encoding="utf-8")
    assert [bool(complaint(words)) for words in command_lines(page)] == [True, True]


@in_every_written_page
def test_every_seed_switch_and_assignment_in_a_command_is_accepted(page: Path) -> None:
    for seeds in values_of("--seeds", page):
        assert parse_seeds(seeds)
    for switches in values_of("--drop", page):
        assert switches == "SWITCHES" or parse_switches(switches)
    assignments = [line for line in values_of("--set", page) if not line.isupper()]
    assert resolve(assignments=[*{line.partition("=")[0]: line for line in assignments}.values()])


@in_every_written_page
def test_every_setting_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"`((?:{'|'.join(SECTIONS)})\.\w+)[`=]", text)
    files = (".py", ".md", ".toml")
    assert [path for path in named if not path.endswith(files) and path not in setting_fields()] == []


def test_the_readme_names_every_file_of_the_package_with_a_remark() -> None:
    package = ROOT / "conki_cli"
    kinds = (".py", ".typed", ".toml", ".html", ".css", ".js")
    files = {str(path.relative_to(package)) for path in package.rglob("*") if path.suffix in kinds}
    tree = readme_tree()
    assert set(tree) == files
    assert all(tree.values())


def test_the_index_links_every_page() -> None:
    rows = re.findall(
        r"^\| \[.+?\]\((.+?\.md)\)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    linked = [(ROOT / "docs" / link).resolve() for link in rows]
    assert sorted(linked) == sorted(set(PAGES) - {ROOT / "README.md", ROOT / "docs" / "index.md"})


def file_called(name: str) -> Path | None:
    """Return the file or folder that a page names, from the project's root or from one of its folders."""
    found = [ROOT / place / name for place in ("", "conki_cli", "docs", "tests") if (ROOT / place / name).exists()]
    return found[0] if found else None


def paths_in(text: str) -> list[str]:
    endings = "|".join(("py", "toml", "html", "css", "js", "svg", "yml"))
    return re.findall(rf"`([\w.-]+(?:/[\w.-]+)+\.(?:{endings})|(?:conki_cli|tests|docs)/[\w./-]*)`", text)


def names_made_in(path: Path) -> set[str]:
    """Return what a module defines or assigns: functions, classes, parameters, fields, variables, keys."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.Dict(keys=keys):
                names |= {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return names


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_path_of_the_project_that_is_named_exists(page: Path) -> None:
    examples = {"conki_cli/data/sources/NAME.py", "figures/KIND-RUN.svg"}
    named = set(paths_in(page.read_text(encoding="utf-8"))) - examples
    assert [path for path in sorted(named) if file_called(path) is None] == []


@in_every_page
def test_every_name_in_a_table_is_made_in_the_file_beside_it(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    missing = []
    for line in (line for line in lines if line.startswith("|")):
        files = [file for path in paths_in(line) if path.endswith(".py") and (file := file_called(path))]
        made = set().union(*map(names_made_in, files))
        names = [code for code in re.findall(r"`([^`]+)`", line) if code.isidentifier()]
        missing += [(name, line) for name in names if files and name not in made]
    assert not missing


def test_a_name_beside_another_file_than_its_own_would_be_noticed() -> None:
    assert "Output" in names_made_in(ROOT / "conki_cli" / "model" / "contract.py")
    assert "Output" not in names_made_in(ROOT / "conki_cli" / "model" / "conki.py")
    assert paths_in("| `conki_cli/baselines/` | `model/conki.py` |") == ["conki_cli/baselines/", "model/conki.py"]


@pytest.mark.parametrize(("column", "dataset"), [(1, "mosi"), (2, "sims"), (3, "mosei")])
def test_the_table_of_appendix_b_equals_the_presets(column: int, dataset: str) -> None:
    config = resolve(flags={"data.dataset": dataset})
    rows = [row for row in table_rows("method.md") if row[0].strip("`") in setting_fields()]
    found = {row[0].strip("`"): row[column] for row in rows}
    values = {path: getattr(getattr(config, path.split(".")[0]), path.split(".")[1]) for path in found}
    assert len(found) == 14
    assert found == {path: str(value) for path, value in values.items()}


def test_the_published_numbers_equal_those_printed_beside_our_results() -> None:
    presets = tomllib.loads((ROOT / "conki_cli" / "config" / "presets" / "published.toml").read_text(encoding="utf-8"))
    formats = {"mae": ".3f", "corr": ".3f", "acc7": ".2f"}
    expected = [
        [
            name.upper(),
            *(format(row[key], code) if key in row else "-" for key, code in formats.items()),
            row["acc2"],
            row["f1"],
        ]
        for name in ("mosi", "mosei", "sims")
        for row in presets[name]["conki"].values()
    ]
    rows = [[row[0], *row[2:]] for row in table_rows("reproduce.md") if row[0] in ("MOSI", "MOSEI", "SIMS")]
    assert sorted(rows) == sorted(expected)
