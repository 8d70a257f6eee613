"""Compile the step for a GPU; `--help` and ssd_graph/commands/lower_gpu.py tell the flags."""

from ssd_graph.commands.lower_gpu import main

if __name__ == "__main__":
    main()
