"""Expert-choice routing: experts choose tokens, and every expert computes equally many.

Import from `router`. This module itself imports nothing heavy, so that the package can be described without torch.
"""
