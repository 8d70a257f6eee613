"""Measurements: what tools/bench.py prints."""
