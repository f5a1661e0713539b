"""Hooks of the site (`.mkdocs.yml`): the project's own files become pages, and anchors are those that GitHub gives.

Links are written for GitHub, relative to the file that they stand in. Here they follow the files to their pages.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", ".github/SECURITY.md": "security.md"}
"""Files outside docs/, relative to the project, and the pages that they become."""
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:)[^)#\s]+")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def slug(heading: str, separator: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let headings have GitHub's anchors, so that a link with one works in both places."""
    config.mdx_configs["toc"]["slugify"] = slug
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose files lie outside docs/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the project into links between pages."""
    sources = {target: name for name, target in PAGES.items()}
    return links_to_pages(markdown, sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))


def links_to_pages(markdown: str, name: str) -> str:
    """Return a text of the file `name` whose links lead to pages; what looks like a link in code stays."""

    def page_of(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link[0]))
        return PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else link[0])

    parts = _CODE.split(markdown)
    parts[::2] = [_LINK.sub(page_of, part) for part in parts[::2]]  # the others are code
    return "".join(parts)
