"""Files of weights: ours, and other programs'."""
