"""`tests/<wing>/test_<module>.py` tests `ssd_graph/<wing>/<module>.py`."""

from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
