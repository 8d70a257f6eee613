"""A file arrives whole from a server that cuts connections, forgets ranges or offers something else, or not at all."""

import random
import socket
import time

import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.download.fetch import fetch
from tests.conftest import refusal
from tests.data.download.unreliable_server import serving

CONTENT = random.Random(0).randbytes(300_000)
SIZE = len(CONTENT)
NO_WAIT = (0.0, 0.0)


@pytest.fixture
def server():
    with serving() as it:
        it.files["/a.zip"] = CONTENT
        yield it


def fetched(server, folder, size=SIZE, path="/a.zip"):
    fetch(server.address + path, folder / "a.zip.part", size, NO_WAIT)
    return (folder / "a.zip.part").read_bytes()


def refused(server, folder, **options):
    return refusal(fetched, server, folder, **options)


def test_a_file_arrives(server, tmp_path):
    assert fetched(server, tmp_path) == CONTENT
    assert server.log == [("/a.zip", None)]


def test_a_cut_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.faults = [100_000, 50_000, 1]
    assert fetched(server, tmp_path) == CONTENT
    assert [wanted for _, wanted in server.log] == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]


def test_a_reset_connection_is_taken_up_too(server, tmp_path, capfd):
    server.faults = [-100_000]
    assert fetched(server, tmp_path) == CONTENT
    assert "reset" in capfd.readouterr().err
    assert len(server.log) == 2


def test_a_silent_server_is_asked_again(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("ssd_graph.data.download.fetch._TIMEOUT", 0.1)
    begin = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(InputError, match="timed out"):
        fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/a", tmp_path / "a.part", 10, NO_WAIT)
    assert capfd.readouterr().err.count("timed out") == len(NO_WAIT)
    assert time.monotonic() - begin < 5


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.ranges, server.faults = False, [100_000]
    assert fetched(server, tmp_path) == CONTENT


def test_a_server_without_ranges_that_always_cuts_is_given_up(server, tmp_path):
    server.ranges, server.faults = False, [100_000] * 10
    assert "go on from byte 100,000" in refused(server, tmp_path)
    assert len(server.log) == 4


def test_a_part_begun_anew_is_no_longer_than_what_came(server, tmp_path):
    server.ranges, server.faults = False, [100_000, 50_000, 0, 0, 0]
    assert "go on from byte 0" in refused(server, tmp_path)
    server.faults = [100_000, 50_000, "404"]
    assert "answers 404" in refused(server, tmp_path)
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:50_000]


def test_an_overloaded_server_is_asked_again(server, tmp_path):
    server.faults = ["503", "429"]
    assert fetched(server, tmp_path) == CONTENT


def test_attempts_that_bring_nothing_come_to_an_end(server, tmp_path):
    server.faults = [0] * 10
    assert "run the command again" in refused(server, tmp_path)
    assert len(server.log) == 1 + len(NO_WAIT)
    assert not list(tmp_path.iterdir())


def test_progress_makes_patience_anew(server, tmp_path):
    server.faults = [0, 0, 1000] * 4
    assert fetched(server, tmp_path) == CONTENT


def test_the_next_run_goes_on(server, tmp_path):
    server.faults = [100_000, 0, 0, 0]
    assert "go on from byte 100,000" in refused(server, tmp_path)
    server.log.clear()
    assert fetched(server, tmp_path) == CONTENT
    assert [wanted for _, wanted in server.log] == ["bytes=100000-"]


def test_a_whole_file_is_not_asked_for(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert fetched(server, tmp_path) == CONTENT
    assert not server.log


def test_a_part_that_is_too_long_begins_anew(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(bytes(SIZE + 1))
    assert fetched(server, tmp_path) == CONTENT


def test_a_missing_file_is_refused_at_once(server, tmp_path):
    assert "answers 404" in refused(server, tmp_path, path="/b.zip")
    assert len(server.log) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", [b"", CONTENT[:1000]])
def test_a_file_of_another_size_is_refused_before_it_is_read(server, tmp_path, part):
    (tmp_path / "a.zip.part").write_bytes(part)
    assert "has 300,000 bytes where COCO's has 300,001" in refused(server, tmp_path, size=SIZE + 1)
    assert [f.read_bytes() for f in tmp_path.iterdir()] == ([part] if part else [])


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/zip"])
def test_what_came_is_not_given_for_an_answer_that_may_be_anything(server, tmp_path, kind):
    """A network that asks for a login sends a page of its own, in chunks, without a length."""
    server.ranges, server.claims_length, server.kind = False, False, kind
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1000])
    assert "try another --mirror" in refused(server, tmp_path)
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:1000]


def test_a_web_page_is_no_beginning(server, tmp_path):
    server.kind = "text/html"
    assert "a web page comes instead" in refused(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_more_is_written_than_the_file_should_have(server, tmp_path):
    server.claims_length = False
    assert fetched(server, tmp_path, size=1000) == CONTENT[:1000]


def test_an_unreachable_server_is_named(tmp_path):
    with serving() as gone:
        pass
    message = refused(gone, tmp_path)
    assert gone.address in message
    assert "refused" in message
