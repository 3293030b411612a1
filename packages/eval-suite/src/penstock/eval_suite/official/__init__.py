"""Metrics that have an official script, each equal to it to 1e-12."""
