"""A run: `train.py` is the loop, the others are what it keeps books with."""

from ssd_graph.cli import load_no_plug_in

load_no_plug_in()
