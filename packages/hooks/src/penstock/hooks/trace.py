"""Routing traces moved to their own distribution."""

raise ImportError("penstock.hooks.trace is now penstock.traces.trace: `uv add penstock-traces`")
