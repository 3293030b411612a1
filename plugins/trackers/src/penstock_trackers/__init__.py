"""Trackers for training runs: Trackio, Weights & Biases, MLflow."""
