"""What two texts may differ in and still count as equal: Unicode form, what is not seen, case, punctuation, whitespace.

Normalising twice changes nothing more. Punctuation becomes a space and does not vanish, so that "end.Next" stays two
words and no combining mark comes to stand after another letter.
"""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import asdict, dataclass
from typing import Literal, cast, get_args

from penstock.hooks.problems import Problem, ProblemError, did_you_mean

VERSION = 3
"""Raised by every change of a result; it is part of all that is stored and compared."""


Unicode = Literal["nfkc", "nfc", "none"]
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

    unicode: Unicode = "nfkc"
    """`nfc` composes letters and their accents (Unicode Standard Annex 15). `nfkc` also takes letters that only look
    otherwise, such as ligatures and full-width ones, for the plain ones, removes what is not seen (soft hyphens,
    joiners, variation selectors, byte order marks), and makes a space of each control character, zero-width space and
    Hangul filler."""
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
        text = self._composed(_seen(text) if self.unicode == "nfkc" else text)
        # After punctuation: an acute accent that stands for an apostrophe would become a space and an accent.
        if self.unicode == "nfkc" and (plain := unicodedata.normalize("NFKC", text)) != text:
            text = self._composed(plain)
        return " ".join(text.split()) if self.whitespace == "single" else text

    def _composed(self, text: str) -> str:
        if self.case == "lower":
            text = text.lower()
        # After the case: "J" with a caron has no composed form, "j" with one has.
        if self.unicode != "none":
            text = unicodedata.normalize("NFC", text)
        return _without_punctuation(text) if self.punctuation == "space" else text

    @property
    def version(self) -> str:
        """What a stored hash carries: hashes of different versions are never compared.

        >>> Normaliser().version
        '3-nfkc-lower-space-single'
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


SEPARATORS = "\u200b\u3164\uffa0"
"""Not seen, but words end there. The zero-width space is the word boundary of scripts without spaces, such as Khmer and
Thai (Unicode 17, section 23.2). The Hangul fillers stand where a letter would, and are as wide as one: writers take
them for a space."""
_CONTROLS = "".join(each for each in map(chr, (*range(0x20), *range(0x7F, 0xA0))) if not each.isspace())
_CONTROL = re.compile(f"[{re.escape(_CONTROLS)}]")
_SPACE = re.compile(f"[{re.escape(_CONTROLS)}{SEPARATORS}]")

_BASIC = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\ufff0-\ufff8"
    "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\ufff9-\ufffb"
)
_BEYOND = "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000110bd\U000110cd\U00013430-\U0001343f"
UNSEEN = _BASIC + _BEYOND
"""Ranges of a regular expression. In each part stands first Default_Ignorable_Code_Point (DerivedCoreProperties.txt of
Unicode 17, without `SEPARATORS`), and then what category Cf has besides: signs that go around Arabic, Syriac and Kaithi
numbers, marks of annotations, and what joins hieroglyphs. A list, so that every Python finds the same."""
_UNSEEN = re.compile(f"[{UNSEEN}]+")
# A text without them is found in a third of the time if ranges of rare characters are not told apart.
_PERHAPS = re.compile(f"[{re.escape(_CONTROLS)}{SEPARATORS}{_BASIC}\U00010000-\U0010ffff]")

_ASCII = str.maketrans(dict.fromkeys(string.punctuation, " "))  # of both categories
_FEW = 50  # as many replacements, each of which reads the text, take the time of one translation


def _seen(text: str) -> str:
    if text.isascii():
        return _CONTROL.sub(" ", text)
    return _UNSEEN.sub("", _SPACE.sub(" ", text)) if _PERHAPS.search(text) else text


def _without_punctuation(text: str) -> str:
    if text.isascii():
        return text.translate(_ASCII)
    found = [character for character in set(text) if unicodedata.category(character)[0] in "PS"]
    if len(found) > _FEW:
        return text.translate(dict.fromkeys(map(ord, found), " "))
    for character in found:
        text = text.replace(character, " ")
    return text
