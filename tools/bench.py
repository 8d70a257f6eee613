"""Measure; `--help` and ssd_graph/commands/bench.py tell the flags."""

from ssd_graph.commands.bench import main

if __name__ == "__main__":
    main()
