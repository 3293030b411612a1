"""`penstock profile`: which experts a model chooses, for which text, and what another choice would cost."""
