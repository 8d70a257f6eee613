"""What compiles the graph on each device, and what it gets wrong there, mended."""
