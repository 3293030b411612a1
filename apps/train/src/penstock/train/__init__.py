"""Prepares data and trains: the composition of columns into a run."""
