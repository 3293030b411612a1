"""The conformance kit moved to a distribution of its own."""

raise ImportError("penstock.hooks.testing is now penstock.conformance: `uv add --dev penstock-conformance`")
