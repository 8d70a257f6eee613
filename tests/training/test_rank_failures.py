"""Whichever rank fails, all end within seconds, with one message; the other ways are rank_failures.py's own."""

import socket
import time

import pytest
from torch.distributed import HashStore

from ssd_graph.training import failure
from tests import PATIENCE
from tests.training.rank_failures import LONGEST, WAYS, fail, start

QUICK = ("a bad image on rank 1", "the same while rank 0 hangs")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in WAYS])
def test_a_failure_on_one_rank_ends_the_run(tiny_coco, tmp_path, name):
    fail(name, tiny_coco, tmp_path / "case")


@pytest.mark.parametrize(("fault", "told"), [("disk", "rank 0: cannot write"), ("hang", "rank 1: not enough memory")])
def test_ranks_without_a_launcher_end_together(tiny_coco, tmp_path, fault, told):
    """As the seed starts them: rank 0 keeps the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [start(tiny_coco, tmp_path / "run", fault, RANK=rank, LOCAL_RANK=rank, **world) for rank in "01"]
    said = [text for rank in ranks for text in rank.communicate(timeout=120 * PATIENCE)]
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert "".join(said).count(told) == 1
    assert "Traceback" not in "".join(said)
    assert time.monotonic() - float((tmp_path / "failed").read_text()) <= LONGEST * PATIENCE


def test_a_reader_that_leaves_ends_the_ranks_without_a_word(monkeypatch, capsys):
    codes = []
    monkeypatch.setattr(failure, "_end", codes.append)
    monkeypatch.setattr(failure, "reader_left", lambda: True)
    store = HashStore()
    failure._fail(store, 0, BrokenPipeError())
    assert (codes, store.get(failure._KEY), capsys.readouterr().err) == ([141], b"141", "")
