"""Thousands of damaged files end in success or in one line; and the judge of that notices everything else."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssd_graph.cli import InputError
from tests import REPOSITORY
from tests.fuzz import cases
from tests.fuzz.cases import run_case
from tests.fuzz.kinds import KINDS, Kind


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_damaged_files_are_used_or_refused_in_one_line():
    done = subprocess.run([sys.executable, "-m", "tests.fuzz"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    total = re.fullmatch(r"fuzz: ([\d,]+) cases: .*, 0 traceback", done.stdout.splitlines()[-1])
    assert int(total[1].replace(",", "")) >= 2000
    for name in KINDS:  # damage that is always refused, or never, proves little
        counts = re.search(rf"^{name}: \d+ cases: (\d+) accepted, (\d+) refused", done.stdout, re.MULTILINE)
        assert int(counts[1]) > 0
        assert int(counts[2]) > 0 or name in ("image-check", "metrics", "harmless")


def verdict(use, tmp_path, write=lambda rng, sound: None):
    return run_case("test", Kind(1, write, use), 0, tmp_path).verdict


def refuse(sound):
    raise InputError("give another file")


def warn(sound):
    sys.stderr.write("x.py:1: UserWarning: odd\n  warn()\n")


def refuse_and_leave(sound):
    Path("out.json").touch()
    refuse(sound)


def leave_half(sound):
    Path(".out.json.tmp").touch()


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda sound: None, "accepted"),
        (lambda sound: Path("out.json").touch(), "accepted"),
        (refuse, "refused"),
        (lambda sound: 1 // 0, "traceback"),
        (lambda sound: bytearray(8 << 30), "traceback"),
        (lambda sound: sys.stdout.write("\ud800"), "accepted"),
        (warn, "2 lines on stderr"),
        (refuse_and_leave, "left case/out.json"),
        (leave_half, "left case/.out.json.tmp"),
    ],
)
def test_a_case_is_judged_by_how_it_ends(use, expected, tmp_path):
    assert verdict(use, tmp_path) == expected


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_case_that_hangs_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(cases, "SECONDS", 1)

    def spin(sound):
        while True:
            time.time()

    assert verdict(spin, tmp_path) == "more than 1 s"


def test_a_case_is_the_same_each_time(tmp_path):
    def write(rng, sound):
        Path("drawn").write_text(str(rng.random()))

    def tell(sound):
        print(Path("drawn").read_text())

    kind = Kind(1, write, tell)
    first, again, other = (run_case("test", kind, seed, tmp_path).output for seed in (3, 3, 4))
    assert first == again != other
