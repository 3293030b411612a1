"""The conformance kit moved to its own distribution."""

raise ImportError("penstock.hooks.testing is now penstock.conformance: `uv add --dev penstock-conformance`")
