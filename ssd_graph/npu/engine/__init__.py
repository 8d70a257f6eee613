"""What Ascend's graph engine (GE) would do with a graph, by published facts or those of an installed CANN."""
