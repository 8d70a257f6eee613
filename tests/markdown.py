"""What is in the documentation: its pages, their commands, links, headings and the files they name."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests import REPOSITORY

PAGES = sorted(
    [
        *(REPOSITORY / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md", "SECURITY.md")),
        *REPOSITORY.glob("docs/*.md"),
    ]
)
SHELL = ("", "sh", "bash", "console")
"""Languages of a fence that hold commands, as an indented block does; ```text and ```python do not."""


def tokens(page: Path) -> list[Token]:
    """The page in pieces: tables are GitHub's and zensical's, all else is CommonMark."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[tuple[int, str]]:
    """Line number and text of every command in the page's code blocks, comments cut off, continued lines joined."""
    result: list[tuple[int, str]] = []
    for token in tokens(page):
        if token.type not in ("fence", "code_block") or token.info not in SHELL:
            continue
        begun = ""
        first = token.map[0] + 1 + (token.type == "fence")
        for number, line in enumerate(token.content.splitlines(), first):
            text = begun + re.sub(r"(^|\s)#\s.*$", "", line).strip()
            begun = text[:-1].rstrip() + " " if text.endswith("\\") else ""
            if text and not begun:
                result.append((number, text))
        assert not begun, f"{page.name}, line {first}: a block ends within a command"
    return result


def python_blocks(page: Path) -> list[str]:
    """What stands in the page's fences of Python, in order."""
    return [token.content for token in tokens(page) if token.type == "fence" and token.info == "python"]


def inline(page: Path) -> Iterator[Token]:
    """What the page's lines of text are made of."""
    return (child for token in tokens(page) for child in token.children or ())


def inline_code(page: Path) -> list[str]:
    """What stands between backticks."""
    return [child.content for child in inline(page) if child.type == "code_inline"]


def links(page: Path) -> list[str]:
    """Targets of links and pictures."""
    html = [token.content for token in (*tokens(page), *inline(page)) if token.type in ("html_block", "html_inline")]
    targets = [child.attrs.get("href") or child.attrs.get("src") for child in inline(page)]
    return [str(target) for target in targets if target] + re.findall(r"(?:src|href)=\"([^\"]+)\"", "\n".join(html))


def anchors(page: Path) -> set[str]:
    """The anchors that the page's headings get, on GitHub and in the built pages alike."""
    pieces = tokens(page)
    headings = [after for token, after in pairwise(pieces) if token.type == "heading_open"]
    return {slug("".join(child.content for child in heading.children or ())) for heading in headings}


def slug(heading: str) -> str:
    """The anchor of a heading's text."""
    plain = unicodedata.normalize("NFKD", heading).lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain).strip())
