"""A launcher whose jobs are tasks of a Ray cluster."""
