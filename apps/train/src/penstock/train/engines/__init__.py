"""Who holds the model, computes gradients and takes steps: one module an engine."""
