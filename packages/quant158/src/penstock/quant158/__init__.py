"""Ternary weights: 1.58 bits of information each, 1.6 bits stored.

`ternary`, `learned` and `integers` simulate formats in training, on the base `quantizer`. `stored` reads their packed
form without torch, and `kernel` multiplies with it.
"""
