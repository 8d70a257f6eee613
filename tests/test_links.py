"""The documentation's links, anchors and file names lead somewhere, and its pages build without a warning."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

import pytest

from tests import REPOSITORY, markdown
from tests.markdown import PAGES

TOP = ("ssd_graph", "tests", "tools", "export", "docs", ".ci")


def broken(page, target):
    """What is wrong with a link of a page, or None; nothing is fetched."""
    parts = urlsplit(target)
    if parts.scheme:
        good = parts.scheme in ("http", "https") and "." in parts.netloc and not re.search(r"[\s<>\"]", target)
        return None if good else "not a web address"
    file = page.parent / parts.path if parts.path else page
    if not file.exists():
        return "no such file"
    if page.parent.name == "docs" and REPOSITORY / "docs" not in file.resolve().parents:
        return "outside docs/, so the built pages do not have it"
    if unquote(parts.fragment) and unquote(parts.fragment) not in markdown.anchors(file):
        return "no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page):
    assert {target: problem for target in markdown.links(page) if (problem := broken(page, target))} == {}


@pytest.mark.parametrize(
    "target", ["gone.md", "docs/graph.md#gone", "#gone", "https://nothing", "docs/pictures/gone.png"]
)
def test_a_link_that_leads_nowhere_is_found(target):
    assert broken(REPOSITORY / "README.md", target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_are_there(page):
    names = [code for code in markdown.inline_code(page) if re.fullmatch(rf"({'|'.join(TOP)})/[\w./-]*", code)]
    assert [name for name in names if not (REPOSITORY / name).exists()] == []


def test_every_page_is_in_the_navigation():
    nav = tomllib.loads((REPOSITORY / "zensical.toml").read_text())["project"]["nav"]
    told = {file for entry in nav for file in entry.values()}
    assert told == {page.name for page in PAGES if page.parent.name == "docs"}


def build(folder):
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def sources(tmp_path):
    shutil.copy(REPOSITORY / "zensical.toml", tmp_path)
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    return tmp_path


@pytest.mark.skipif(find_spec("zensical") is None, reason="zensical is not installed; `make docs` brings it")
def test_the_pages_build_and_a_broken_link_stops_the_build(sources):
    done = build(sources)
    assert done.returncode == 0, done.stdout + done.stderr
    built = {file.stem for file in (sources / "build" / "docs").glob("*.html")}
    assert built >= {page.stem for page in PAGES if page.parent.name == "docs"}
    with (sources / "docs" / "graph.md").open("a") as page:
        page.write("\n[nowhere](training.md#nowhere)\n")
    assert build(sources).returncode != 0
