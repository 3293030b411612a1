"""What two texts may differ in and still count as equal: Unicode form, case, punctuation, whitespace.

Normalising twice changes nothing more. Punctuation becomes a space and does not vanish, so that "end.Next" stays two
words and no combining mark comes to stand after another letter.
"""

from __future__ import annotations

import string
import unicodedata
from dataclasses import asdict, dataclass
from typing import Literal, cast, get_args

from penstock.hooks.problems import Problem, ProblemError, did_you_mean

VERSION = 1
"""Raised by every change of a result; it is part of all that is stored and compared."""


Unicode = Literal["nfc", "none"]
Case = Literal["lower", "keep"]
Punctuation = Literal["space", "keep"]
Whitespace = Literal["single", "keep"]


@dataclass(frozen=True, slots=True)
class Normaliser:
    """A text to the text that is compared.

    Letters that Unicode adds have no lower case and no composed form for older versions of Python (3.11 knows Unicode
    14), so a text with such letters may normalise otherwise on another version. Raises `ProblemError` for an unknown
    setting.
    """

    unicode: Unicode = "nfc"
    """`nfc` composes letters and their accents (Unicode Standard Annex 15)."""
    case: Case = "lower"
    punctuation: Punctuation = "space"
    """`space` replaces each character of the Unicode categories P (punctuation) and S (symbols)."""
    whitespace: Whitespace = "single"
    """`single` makes one space of each run of whitespace, and removes it at both ends."""

    def __post_init__(self) -> None:
        kinds = {"unicode": Unicode, "case": Case, "punctuation": Punctuation, "whitespace": Whitespace}
        for name, kind in kinds.items():
            require_choice(name, getattr(self, name), get_args(kind))

    def __call__(self, text: str) -> str:
        if self.case == "lower":
            text = text.lower()
        # After the case: "J" with a caron has no composed form, "j" with one has.
        if self.unicode == "nfc":
            text = unicodedata.normalize("NFC", text)
        if self.punctuation == "space":
            text = _without_punctuation(text)
        return " ".join(text.split()) if self.whitespace == "single" else text

    @property
    def version(self) -> str:
        """What a stored hash carries: hashes of different versions are never compared.

        >>> Normaliser().version
        '1-nfc-lower-space-single'
        """
        return "-".join([str(VERSION), *asdict(self).values()])

    @classmethod
    def of(cls, version: str) -> Normaliser:
        """That of a version. It has another version if this release normalises otherwise."""
        _, unicode, case, punctuation, whitespace = version.split("-")
        return cls(
            cast(Unicode, unicode), cast(Case, case), cast(Punctuation, punctuation), cast(Whitespace, whitespace)
        )


def require_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises `ProblemError` for a setting that is not among the known values."""
    if value not in known:
        raise ProblemError(Problem("invalid-value", f"{name} is '{value}'", "", did_you_mean(value, known)))


_ASCII = str.maketrans(dict.fromkeys(string.punctuation, " "))  # of both categories

_FEW = 50  # as many replacements, each of which reads the text, take the time of one translation


def _without_punctuation(text: str) -> str:
    if text.isascii():
        return text.translate(_ASCII)
    found = [character for character in set(text) if unicodedata.category(character)[0] in "PS"]
    if len(found) > _FEW:
        return text.translate(dict.fromkeys(map(ord, found), " "))
    for character in found:
        text = text.replace(character, " ")
    return text
