"""Routing traces: which experts a model chose, read from every format, and how even and specialised the choice is.

Import from the submodules: `penstock.traces.trace` holds `RoutingTrace`. Needs numpy, not torch.
"""
