"""report.html: one self-contained page about an evaluation."""
