"""lm-evaluation-harness with Penstock: its tasks on our models, and our models in its command."""
