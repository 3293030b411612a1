"""`penstock quickstart`: train, measure and explain a small sparse model in one command."""
