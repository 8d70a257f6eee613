"""Lower the graphs for an NPU; `--help` and ssd_graph/commands/lower_npu.py tell the flags."""

from ssd_graph.commands.lower_npu import main

if __name__ == "__main__":
    main()
