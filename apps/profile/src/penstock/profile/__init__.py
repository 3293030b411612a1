"""`penstock profile`: which experts a model chooses, for which text, and what other choices would cost."""
