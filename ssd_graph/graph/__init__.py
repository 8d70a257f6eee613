"""The mathematics: everything that `step.py`, the function that is compiled, is made of, and the postprocessing."""
