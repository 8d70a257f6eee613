"""Export a checkpoint to ONNX; `--help` and ssd_graph/commands/to_onnx.py tell the flags."""

from ssd_graph.commands.to_onnx import main

if __name__ == "__main__":
    main()
