"""`penstock data`: corpora are cleaned in stages, and what the stages did is shown and taken back."""
