"""A run of thousands of steps holds on to no more memory, files, threads or graphs than one of hundreds."""

import json
import subprocess
import sys

import pytest

from tests import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and asks glibc")
def test_two_thousand_steps_leave_the_process_as_five_hundred_did(tmp_path):
    command = [sys.executable, "-m", "tests.training.long_run", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    figures = {int(step): held for step, held in json.loads(done.stdout.splitlines()[-1]).items()}
    for step, held in figures.items():
        print(f"step {step}: " + ", ".join(f"{value:,} {name}" for name, value in held.items()))
    assert list(figures) == [500, 1000, 1500, 2000]
    first, last = figures[500], figures[2000]
    assert last["resident_kb"] < 1.02 * first["resident_kb"]
    for name in ("files", "threads", "graphs"):
        assert last[name] == first[name] > 0
