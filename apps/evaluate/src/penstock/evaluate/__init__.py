"""Measures runs: evaluation, expert load, network prediction, and the report that shows them."""
