"""`penstock sweep`: a grid of settings, the same seeds for every cell, and what the difference is worth."""
