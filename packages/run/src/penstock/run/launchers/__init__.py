"""Launchers of this machine. See `penstock.hooks.contracts.launching`."""
