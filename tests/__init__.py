"""`tests/<wing>/test_<module>.py` tests `ssd_graph/<wing>/<module>.py`."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

PATIENCE = int(os.environ.get("SSD_GRAPH_PATIENCE", "1"))
"""How many times longer than on a real machine a process may take; tests/aarch64.sh sets it."""
