"""Damaged and hostile files, made at random, against everything that reads a file from somebody else."""
