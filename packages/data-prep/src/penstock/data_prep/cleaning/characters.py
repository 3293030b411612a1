"""What a normaliser makes of each character alone, for the kernel, and which characters depend on their neighbours."""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

from penstock.data_prep.cleaning.normalise import Normaliser

REFUSED = 2**32 - 1
"""In the place of an image: Python has to normalise the texts with this character."""
CHARACTERS = 0x20000
"""Characters below are known; those above are rare ideographs, and emoji are below."""
_SIGMA = "Σ"  # the one letter whose lower case depends on where in a word it stands
_HANGUL_PARTS = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))  # composed by rule: no character names them


@cache
def images(normaliser: Normaliser, joined: bool) -> NDArray[np.uint32]:
    """The image [CHARACTERS] of each character, or `REFUSED`. With `joined`, every whitespace becomes a space.

    A text without refused characters normalises to the images of its characters, before runs of spaces are joined.
    """
    table = np.arange(CHARACTERS, dtype=np.uint32)
    composing = _composing() if normaliser.unicode == "nfc" else frozenset()
    alone = Normaliser(normaliser.unicode, normaliser.case, normaliser.punctuation, "keep")
    for number in range(CHARACTERS):
        character = chr(number)
        image = alone(character)
        sigma = normaliser.case == "lower" and character == _SIGMA
        if sigma or len(image) != 1 or character in composing or image in composing:
            table[number] = REFUSED
        elif joined and image.isspace():
            table[number] = ord(" ")
        elif image != character:
            table[number] = ord(image)
    table.setflags(write=False)
    return table


@cache
def _composing() -> frozenset[str]:
    """Characters that may change with the one before them: accents, and what composition puts second."""
    found = {chr(number) for number in _HANGUL_PARTS}
    for character in map(chr, range(CHARACTERS)):
        if unicodedata.combining(character):
            found.add(character)
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)
