"""What a normaliser makes of each character alone, for the kernel, and which characters depend on their neighbours."""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

from penstock.data_prep.cleaning.normalise import Normaliser

CHARACTERS = 0x20000
"""Characters below are known. Emoji are; rare ideographs lie above."""
REFUSED = 0
"""In the place of an image: Python has to normalise the texts with this character."""
VANISHED = 5 << 24
"""In the place of an image: nothing is left of this character."""
_SIGMA = "Σ"  # the one letter whose lower case depends on where in a word it stands
_HANGUL_PARTS = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))  # composed by rule: no character names them


@cache
def images(normaliser: Normaliser, joined: bool) -> NDArray[np.uint32]:
    """The image [CHARACTERS] of each character as native/api.h wants it, or `REFUSED`: its UTF-8, the first byte
    lowest, and the length in the highest byte; a length of 4 alone where the character is its own image, and 5 where
    the image is empty.

    A text without refused characters normalises to the images of its characters. With `joined`, every whitespace has a
    space for its image, and runs of spaces are still to be joined.
    """
    table = np.full(CHARACTERS, REFUSED, np.uint32)
    composing = _composing() if normaliser.unicode != "none" else frozenset()
    alone = Normaliser(normaliser.unicode, normaliser.case, normaliser.punctuation, "keep")
    for number in range(CHARACTERS):
        character = chr(number)
        image = alone(character)
        if joined and image.isspace():
            image = " "
        sigma = normaliser.case == "lower" and character == _SIGMA
        if sigma or len(image) > 1 or character in composing or image in composing:
            continue
        table[number] = _packed(character, image) if image else VANISHED
    table.setflags(write=False)
    return table


def _packed(character: str, image: str) -> int:
    encoded = image.encode("utf-8", "surrogatepass")
    if len(encoded) < 4:
        return len(encoded) << 24 | int.from_bytes(encoded, "little")
    return 4 << 24 if image == character else REFUSED


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
