"""Ternary weights: 1.58 bits of information each, 1.6 bits stored.

`ternary.TernaryQuantizer` simulates them in training, `packing` stores them five to a byte.
"""
