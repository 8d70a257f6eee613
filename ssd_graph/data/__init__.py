"""From annotations and image files to batches: the only wing that reads pictures."""
