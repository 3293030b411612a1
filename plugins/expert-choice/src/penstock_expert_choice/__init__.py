"""Expert-choice routing: experts choose tokens, and every expert computes the same number.

Import from `router`. This module itself imports nothing heavy, so the package can be described without torch.
"""
