"""report.html: one self-contained page about an evaluation."""

from ssd_graph.report.page import write_report

__all__ = ["write_report"]
