"""Muon for matrices and stacked experts, AdamW for the rest, chosen by parameter role; learning-rate schedules.

Import from the submodules: `muon`, `adamw`, `newton_schulz`, `schedules`. This module itself imports nothing heavy, so
that the package can be described without torch.
"""
