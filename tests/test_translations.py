"""The Chinese pages have the commands and the figures of the English ones."""

import re

import pytest

from tests import REPOSITORY, markdown

TRANSLATIONS = {"docs/npu.zh.md": "docs/npu.md", "README.zh.md": "README.md"}
"""Chinese page and what it translates, all of it or its sections with these names."""

NUMBER = r"(?<![a-zA-Z\d.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)*(?:e-?\d+)?(?![a-zA-Z\d])"


def blocks(page):
    """What stands in the page's code blocks."""
    return [token.content for token in markdown.tokens(page) if token.type in ("fence", "code_block")]


def words(page):
    """The page's figures and its code in running text, in their order, by section."""
    text = re.sub(r"```.*?```|^    .*?$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [
        (
            sorted(re.findall(r"`([^`]+)`", section)),
            sorted(re.findall(NUMBER, re.sub(r"`[^`]+`|\(http\S+\)", "", section))),
        )
        for section in re.split(r"^#+ ", text, flags=re.M)
    ]


def test_the_npu_page_says_the_same():
    chinese, english = (REPOSITORY / "docs" / name for name in ("npu.zh.md", "npu.md"))
    assert blocks(chinese) == blocks(english)
    for ours, theirs in zip(words(chinese), words(english), strict=True):
        assert ours == theirs
