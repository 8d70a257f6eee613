"""Kill short runs at random moments, again and again, and compare the bits that they end with.

python -m tests.training.kills               # 300 kills
python -m tests.training.kills --kills 30
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ssd_graph.data.shapes import write_shapes
from tests.training.rank_failures import processes_of
from tests.training.test_resume import assert_same_run, finish, start

WAYS = {"no workers": ("--workers", 0), "two workers": ("--workers", 2), "two ranks": ("--cpus", 2)}
KILLS_A_RUN = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="default: 300, a third of them in each way")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begin, total = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        write_shapes(data, {"train": 12, "val": 6})
        for way, flags in WAYS.items():
            straight = Path(folder, "straight")
            clock = time.monotonic()
            finish(start(data, straight, *flags), straight)
            seconds, kills, runs = time.monotonic() - clock, 0, 0
            while kills < -(-args.kills // len(WAYS)):
                out = Path(folder, "run")
                kills += run_and_kill(data, out, flags, random.Random(f"{args.seed} {way} {runs}"), seconds)
                assert_same_run(straight, out)
                shutil.rmtree(out)
                runs += 1
            shutil.rmtree(straight)
            total += kills
            print(f"{way}: {kills} kills in {runs} runs, all with the same bits and the same log", flush=True)
    print(f"kills: {total}, none changed a bit, {(time.monotonic() - begin) / 60:.0f} min")


def run_and_kill(data, out, flags, rng, seconds):
    """A run of about so many seconds, begun anew after each of a few kills; how often it was killed."""
    kills = 0
    process = start(data, out, *flags, "--resume", "auto")
    while kills < KILLS_A_RUN:
        try:
            process.wait(timeout=rng.uniform(0, seconds))
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # ranks have process groups of their own and die with their launcher
            process.wait()
        kills += 1
        process = start(data, out, *flags, "--resume", "auto")
    process.wait(timeout=300)
    told = Path(f"{out}.txt").read_text()
    if process.returncode != 0 and "nothing left to train" not in told.splitlines()[-1]:  # it was killed at its end
        sys.exit(told)
    Path(f"{out}.txt").unlink()
    assert not processes_of(out), "a killed run left processes behind"
    return kills


if __name__ == "__main__":
    main()
