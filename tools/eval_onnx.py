"""Score an exported model; `--help` and ssd_graph/commands/eval_onnx.py tell the flags."""

from ssd_graph.commands.eval_onnx import main

if __name__ == "__main__":
    main()
