"""Serves trained models over HTTP: `penstock serve`."""
