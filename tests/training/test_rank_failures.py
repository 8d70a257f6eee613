"""Whichever rank fails, all end within seconds, with one message; the other ways are rank_failures.py's own."""

import pytest

from tests.training.rank_failures import WAYS, fail

QUICK = ("a bad image on rank 1", "the same while rank 0 hangs")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in WAYS])
def test_a_failure_on_one_rank_ends_the_run(tiny_coco, tmp_path, name):
    fail(name, tiny_coco, tmp_path / "case")
