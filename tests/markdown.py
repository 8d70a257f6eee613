"""What is in the documentation: its pages, their commands, links, headings and the files they name."""

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from tests import REPOSITORY

PAGES = sorted(
    [*(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *REPOSITORY.glob("docs/*.md")]
)
SHELL = ("", "sh", "bash", "console")
"""Languages of a fence that hold commands, as an indented block does; ```text and ```python do not."""


class Line(NamedTuple):
    """A line of a page."""

    number: int
    text: str
    language: str | None
    """Of the code block that it is in; "" for an indented block or a bare fence, None for prose."""


def lines(page: Path) -> list[Line]:
    """Every line of a page but fences and blank ones."""
    result, fence = [], None
    previous_is_text = False
    for number, text in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if mark := re.match(r"\s*```(\w*)", text):
            fence = mark[1] if fence is None else None
            continue
        if not text.strip():
            previous_is_text = False
            continue
        # An indented line behind a line of text goes on with it.
        indented = text.startswith("    ") and not previous_is_text
        language = fence if fence is not None else "" if indented else None
        previous_is_text = language is None
        result.append(Line(number, text, language))
    return result


def commands(page: Path) -> list[tuple[int, str]]:
    """Line number and text of every command in the page's code blocks, comments cut off, continued lines joined."""
    result: list[tuple[int, str]] = []
    begun = ""
    for line in lines(page):
        if line.language not in SHELL or line.language is None:
            continue
        text = begun + re.sub(r"(^|\s)#\s.*$", "", line.text).strip()
        begun = text[:-1].rstrip() + " " if text.endswith("\\") else ""
        if text and not begun:
            result.append((line.number, text))
    assert not begun, f"{page.name} ends within a command"
    return result


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return "\n".join(line.text for line in lines(page) if line.language is None)


def inline_code(page: Path) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page: Path) -> list[str]:
    """Targets of links and pictures."""
    text = re.sub(r"`[^`\n]+`", "", prose(page))
    return [
        target
        for pattern in (r"\]\(([^)\s]+)[^)]*\)", r"<(https?://[^>]+)>", r"(?:src|href)=\"([^\"]+)\"")
        for target in re.findall(pattern, text)
    ]


def anchors(page: Path) -> set[str]:
    """The anchors that the page's headings get, on GitHub and in the built pages alike."""
    result: set[str] = set()
    for line in lines(page):
        if line.language is None and (heading := re.match(r"#+ (.+)", line.text)):
            result.add(slug(heading[1]))
    return result


def slug(heading: str) -> str:
    """A heading's anchor."""
    plain = unicodedata.normalize("NFKD", re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading)).lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain).strip())
