"""Routing traces moved to a distribution of their own."""

raise ImportError("penstock.hooks.trace is now penstock.traces.trace: `uv add penstock-traces`")
