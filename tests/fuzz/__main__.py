"""Damage files at random and say how it ended; a case is repeated by its kind and seed.

python -m tests.fuzz                              # what the slow tests run
python -m tests.fuzz --first 10000 --cases 500    # other cases, 500 of each kind
python -m tests.fuzz --kind onnx --seed 17        # one case, with its output
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from tests.fuzz.cases import run_case
from tests.fuzz.kinds import KINDS


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all of them")
    parser.add_argument("--seed", type=int, help="repeat this case and print its output")
    parser.add_argument("--first", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--cases", type=int, help="of each kind (default: as many as the slow tests run)")
    parser.add_argument("--all", action="store_true", help="print the last line of every case")
    parser.add_argument("--sound", type=Path, help="folder of sound files, made if it is not there, and kept")
    args = parser.parse_args()
    torch.set_num_threads(1)  # OpenMP's threads are not there in a forked child, which would wait for them
    with tempfile.TemporaryDirectory() as folder:
        sound = (args.sound or Path(folder, "sound")).resolve()
        if not sound.is_dir():
            # In a process of its own, since cases are forked from this one.
            code = "import sys; from tests.fuzz.material import make_material; make_material(sys.argv[1])"
            subprocess.run([sys.executable, "-c", code, str(sound)], check=True, stdout=subprocess.DEVNULL)
        if args.seed is not None:
            (name,) = args.kind
            outcome = run_case(name, KINDS[name], args.seed, sound)
            print(outcome.output, outcome.verdict, sep="\n")
            sys.exit(not outcome.is_sound)
        total = Counter()
        for name in args.kind or KINDS:
            total += run_cases(
                name, range(args.first, args.first + (args.cases or KINDS[name].num_cases)), sound, args.all
            )
    print(f"fuzz: {tally(total)}")
    sys.exit(bool(set(total) - {"accepted", "refused"}))


def run_cases(name, seeds, sound, print_all):
    """Run cases of a kind, print the bad ones with the command that repeats them, and count verdicts."""
    counts = Counter()
    for seed in seeds:
        outcome = run_case(name, KINDS[name], seed, sound)
        counts[outcome.verdict] += 1
        if print_all or not outcome.is_sound:
            last = (outcome.output.strip().splitlines() or [""])[-1][:200]
            print(f"python -m tests.fuzz --kind {name} --seed {seed}  # {outcome.verdict}: {last}", flush=True)
    print(f"{name}: {tally(counts)}", flush=True)
    return counts


def tally(counts):
    """Always with tracebacks, also where there are none."""
    counts = {"accepted": 0, "refused": 0, "traceback": 0, **counts}
    return f"{sum(counts.values()):,} cases: " + ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items())


if __name__ == "__main__":
    main()
