"""Exports trained models for other software."""
