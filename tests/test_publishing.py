"""What is published: the wheel, the citation, the site, and the workflows that make them."""

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from conki_cli import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ["3.11", "3.12", "3.13"]
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def pages_of(nav: list[Any]) -> list[str]:
    """Return the files of a site's navigation, in its order."""
    parts = [part for entry in nav for part in entry.values()]
    return [page for part in parts for page in (pages_of(part) if isinstance(part, list) else [part])]


# --- the wheel ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Build the wheel from a copy of the sources, with the setuptools that is here: no network."""
    pytest.importorskip("setuptools", minversion="77.0.3", reason="setuptools builds the wheel")
    copy = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "conki_cli", copy / "conki_cli", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BUILD], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.Path(copy / "dist" / f"conki-{__version__}-py3-none-any.whl")


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: zipfile.Path) -> None:
    package = ROOT / "conki_cli"
    files = [path for path in package.rglob("*") if path.suffix in (".py", ".toml") or path.parent.name == "templates"]
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    names = {name for name in wheel.root.namelist() if ".dist-info/" not in name and not name.endswith("/")}
    assert names == {*expected, "conki_cli/py.typed"}


def test_the_wheel_says_what_it_is(wheel: zipfile.Path) -> None:
    about = wheel / f"conki-{__version__}.dist-info"
    metadata = (about / "METADATA").read_text(encoding="utf-8")
    assert "conki = conki_cli.__main__:main" in (about / "entry_points.txt").read_text(encoding="utf-8")
    assert "License-Expression: MIT" in metadata
    assert "Author: conki contributors" in metadata
    assert (about / "licenses" / "LICENSE").is_file()


# --- versions and names, which stand in several files ------------------------------------------------------------


def test_the_pythons_that_are_promised_are_those_that_are_tested() -> None:
    named = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    jobs = read(".github/workflows/tests.yml")["jobs"]
    assert named == jobs["tests"]["strategy"]["matrix"]["python"] == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


def test_the_citation_names_this_version_and_the_papers_authors() -> None:
    citation = read("CITATION.cff")
    paper = citation["preferred-citation"]
    authors = ", ".join(f"{author['given-names']} {author['family-names']}" for author in paper["authors"])
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{authors}. *{paper['title']}.* Findings of ACL {paper['year']}." in readme
    assert (citation["version"], citation["license"]) == (__version__, PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"]


def test_the_hooks_before_a_commit_are_the_tools_of_the_environment() -> None:
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"].split()[0] for hook in repository["hooks"]] == ["ruff", "ruff", "mypy"]
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


def test_only_the_job_that_publishes_may_ask_for_an_identity() -> None:
    release = read(".github/workflows/release.yml")
    assert release["permissions"] == read(".github/workflows/tests.yml")["permissions"] == {"contents": "read"}
    assert [name for name, job in release["jobs"].items() if "permissions" in job] == ["publish"]
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert release["jobs"]["publish"]["needs"] == "tests"


# --- the site ----------------------------------------------------------------------------------------------------


def test_the_site_has_the_pages_of_the_index_in_its_order() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[.+?\]\((.+?\.md)\)", index, re.MULTILINE)
    assert pages_of(read(".mkdocs.yml")["nav"]) == ["index.md", *(Path(row).name.lower() for row in rows)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra `docs` builds the site")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "-f", ".mkdocs.yml", "-d"]
    done = subprocess.run([*command, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_holds_every_page_and_no_source(site: Path) -> None:
    pages = pages_of(read(".mkdocs.yml")["nav"])
    built = {path.parent.name for path in site.glob("*/index.html")}
    assert built == {Path(page).stem for page in pages} - {"index"}
    assert not list(site.rglob("*.py")) + list(site.rglob("*.md"))


def test_links_to_files_outside_the_documentation_lead_to_their_pages(site: Path) -> None:
    assert 'href="../contributing/#add-a-source-a-file-format"' in (site / "data" / "index.html").read_text("utf-8")
    assert 'href="../fidelity/"' in (site / "contributing" / "index.html").read_text("utf-8")
    assert 'href="../changelog/"' in (site / "contributing" / "index.html").read_text("utf-8")


def test_a_link_in_code_is_left_as_it_is() -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` builds the site")
    hooks = runpy.run_path(str(ROOT / "docs" / "site_pages.py"))
    text = "[a](../CHANGELOG.md#x) `[b](../CHANGELOG.md)` [`c`](data.md)\n\n```\n[d](../CHANGELOG.md)\n```\n"
    assert hooks["links_to_pages"](text, "docs/index.md") == text.replace("../CHANGELOG.md", "changelog.md", 1)
