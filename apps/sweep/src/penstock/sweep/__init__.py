"""`penstock sweep`: a grid of settings, the same seeds for every cell, and confidence intervals of the differences."""
