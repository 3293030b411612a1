"""Models of transformers as Penstock components, and a recorder of the experts that their mixtures choose."""
