"""Documents that laws hand to stages of data preparation."""

from __future__ import annotations

from random import Random

from penstock.hooks.contracts import Document

_ADJECTIVES = (
    "old",
    "quiet",
    "narrow",
    "broken",
    "bright",
    "heavy",
    "distant",
    "patient",
    "hollow",
    "green",
    "careful",
)
_NOUNS = ("gate", "mill", "river", "engineer", "turbine", "valley", "letter", "winter", "bridge", "market", "teacher")
_VERBS = ("holds", "follows", "measures", "remembers", "crosses", "repairs", "leaves", "watches", "feeds", "carries")
# What filters that rewrite are after: addresses, runs of spaces, characters that have another form, line ends.
_SOILED = "Ask <a@example.org> , or see https://example.org/?q=1 \t ﬁrst  cafe\u0301\u00a0“x”\r\n\r\n\r\n<b>now</b>  "
ODD_TEXTS = [
    "",
    " \n\t",
    "\x00",
    "a",
    "\ufeffbyte order mark",
    "e\u0301 composed, \u202ewritten from the right, 日本語, 👩‍👩‍👧",
    "no space " + "x" * 100_000,
    "line\n" * 20_000,
    "\r\n\u2028\u0085",
]
"""Texts that stages trip over."""


def sample_documents() -> list[Document]:
    """Prose of growing length; every third text stood before, every fifth is a few words alone or has what is often
    cleaned up."""
    texts: list[str] = []
    for number in range(60):
        written = prose(Random(-number - 1), sentences=number + 1)
        if number % 3 == 2:
            texts.append(texts[number // 2])
        elif number % 5 == 4:
            texts.append(f"No more than {number} words." if number % 2 else written + _SOILED + written)
        else:
            texts.append(written)
    return [Document(text, f"kit:{number}") for number, text in enumerate(texts)]


def prose(draw: Random, sentences: int) -> str:
    """English sentences that share few runs of words with those of another draw."""

    def thing() -> str:
        return f"the {draw.choice(_ADJECTIVES)} {draw.choice(_NOUNS)}"

    def does() -> str:
        return f"{thing()} {draw.choice(_VERBS)} {thing()}"

    lines = [f"{does()}, and {does()}." for _ in range(sentences)]
    return "\n".join(line.capitalize() for line in lines)
