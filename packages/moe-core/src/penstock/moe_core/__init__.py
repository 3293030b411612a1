"""Language models, small enough to read and exact enough to load published weights: a folder an architecture, on the
common `layers`."""
