"""Convert published checkpoints; `--help` and ssd_graph/commands/convert_checkpoint.py tell the flags."""

from ssd_graph.commands.convert_checkpoint import main

if __name__ == "__main__":
    main()
