"""Score a checkpoint; `--help` and ssd_graph/commands/eval_graph.py tell the flags."""

from ssd_graph.commands.eval_graph import main

if __name__ == "__main__":
    main()
