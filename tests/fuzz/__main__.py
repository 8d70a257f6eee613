"""Look for cases that end badly, or repeat one: `python -m tests.fuzz [--kind KIND] [--seed SEED | --cases N]`."""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from tests.fuzz.cases import run_case
from tests.fuzz.kinds import KINDS
from tests.fuzz.material import make_material


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all of them")
    parser.add_argument("--seed", type=int, help="repeat this case and print its output")
    parser.add_argument("--first", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--cases", type=int, help="of each kind (default: as many as the test runs)")
    parser.add_argument("--all", action="store_true", help="print the last line of every case")
    parser.add_argument("--sound", type=Path, help="folder of sound files, made if it is not there, and kept")
    args = parser.parse_args()
    torch.set_num_threads(1)  # OpenMP's threads are not there in a forked child, which would wait for them
    with tempfile.TemporaryDirectory() as folder:
        sound = args.sound or Path(folder, "sound")
        if not sound.is_dir():
            make_material(sound)
        if args.seed is not None:
            (name,) = args.kind
            outcome = run_case(name, KINDS[name], args.seed, sound.resolve())
            print(outcome.output, outcome.verdict, sep="\n")
            return
        bad = 0
        for name in args.kind or KINDS:
            counts = {}
            for seed in range(args.first, args.first + (args.cases or KINDS[name].num_cases)):
                outcome = run_case(name, KINDS[name], seed, sound.resolve())
                counts[outcome.verdict] = counts.get(outcome.verdict, 0) + 1
                bad += not outcome.is_sound
                if args.all or not outcome.is_sound:
                    last = (outcome.output.strip().splitlines() or [""])[-1][:200]
                    print(f"--kind {name} --seed {seed}: {outcome.verdict}: {last}", flush=True)
            print(name, counts, flush=True)
        sys.exit(bool(bad))


if __name__ == "__main__":
    main()
