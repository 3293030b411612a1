"""What holds the model, computes gradients and takes steps: one module per engine."""
