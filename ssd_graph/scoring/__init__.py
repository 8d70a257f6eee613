"""Detections against ground truth; nothing here knows torch or images."""
