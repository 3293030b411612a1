"""What commands write into a run directory, as frozen values: their producers return them, and pages read them.

One module per subject. Each value is a `Record`, which writes itself as JSON and reads itself again.
"""
