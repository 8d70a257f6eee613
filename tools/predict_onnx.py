"""Draw an exported model's detections; `--help` and ssd_graph/commands/predict_onnx.py tell the flags."""

from ssd_graph.commands.predict_onnx import main

if __name__ == "__main__":
    main()
