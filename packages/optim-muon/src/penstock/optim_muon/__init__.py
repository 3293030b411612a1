"""Muon for matrices and stacked experts, AdamW for the rest, chosen by parameter role; learning-rate schedules.

Import from the submodules: `muon`, `adamw`, `newton_schulz`, `schedules`. This module imports nothing heavy, so the
components can be listed without torch.
"""
