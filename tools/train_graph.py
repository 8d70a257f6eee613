"""Train SSD300; `--help` and ssd_graph/commands/train_graph.py tell the flags."""

from ssd_graph.commands.train_graph import main

if __name__ == "__main__":
    main()
