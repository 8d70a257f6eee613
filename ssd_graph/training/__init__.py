"""A run: `train.py` is the loop, the others are what it keeps books with."""
