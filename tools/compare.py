"""Compare two evaluations; `--help` and ssd_graph/commands/compare.py tell the flags."""

from ssd_graph.commands.compare import main

if __name__ == "__main__":
    main()
