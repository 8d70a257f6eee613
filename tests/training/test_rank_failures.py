"""Whichever rank fails, all end within seconds, with one message; the other ways are rank_failures.py's own."""

import pytest
from torch.distributed import HashStore

from ssd_graph.training import failure
from tests.training.rank_failures import WAYS, fail

QUICK = ("a bad image on rank 1", "the same while rank 0 hangs")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in WAYS])
def test_a_failure_on_one_rank_ends_the_run(tiny_coco, tmp_path, name):
    fail(name, tiny_coco, tmp_path / "case")


def test_a_reader_that_leaves_ends_the_ranks_without_a_word(monkeypatch, capsys):
    codes = []
    monkeypatch.setattr(failure, "_end", codes.append)
    monkeypatch.setattr(failure, "reader_left", lambda: True)
    store = HashStore()
    failure._fail(store, 0, BrokenPipeError())
    assert (codes, store.get(failure._KEY), capsys.readouterr().err) == ([141], b"141", "")
