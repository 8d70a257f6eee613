"""The Chinese pages have the commands and the figures of the English ones."""

import re

from tests import REPOSITORY, markdown

CHINESE = REPOSITORY / "README.zh.md"

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


def test_the_readme_begins_with_the_same_figures_and_commands():
    ours, theirs = words(CHINESE)[:3], words(REPOSITORY / "README.md")[:3]
    assert [section[1] for section in ours] == [section[1] for section in theirs]
    code = [set(section[0]) for section in theirs]
    assert all(set(section[0]) <= of for section, of in zip(ours, code, strict=True))


def test_the_readmes_commands_are_those_of_the_english_pages():
    pages = [REPOSITORY / name for name in ("README.md", "docs/own_data.md")]
    english = [command for page in pages for _, command in markdown.commands(page)]
    chinese = [command for _, command in markdown.commands(CHINESE)]
    assert [command for command in english if command in chinese] == chinese


def test_the_rows_of_the_seeds_scripts_are_those_of_the_training_page():
    rows = re.findall(r"^\| (`test/.*?`.*?) \| (.*) \|$", (REPOSITORY / "docs" / "training.md").read_text(), re.M)
    ours = re.findall(r"^\| (`test/.*?`.*?) \| (.*) \|$", CHINESE.read_text(encoding="utf-8"), re.M)
    code = [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in rows]
    assert [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in ours] == code
    assert len(code) == 5


def test_the_npu_page_says_the_same():
    chinese, english = (REPOSITORY / "docs" / name for name in ("npu.zh.md", "npu.md"))
    assert blocks(chinese) == blocks(english)
    for ours, theirs in zip(words(chinese), words(english), strict=True):
        assert ours == theirs
