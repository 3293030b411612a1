"""Entities in a sequence of tags, read as conlleval and seqeval's default read them: leniently, in any of the schemes
IOB1 (a `B-` only where two entities of a type touch, as in CoNLL-2003), IOB2, IOE and IOBES.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Entity = tuple[str, int, int]
"""Type, first and last word."""

OUTSIDE = "O"
_PREFIXES = frozenset("BIES")


def is_tag(tag: str) -> bool:
    """Whether a tag is `O`, or a prefix, a hyphen and a type."""
    return tag == OUTSIDE or (tag[:1] in _PREFIXES and tag[1:2] == "-" and len(tag) > 2)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities in the order in which they begin."""
    found: list[Entity] = []
    before, first = OUTSIDE, 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        if _ends(before, tag):
            found.append((before[2:], first, place - 1))
        if _begins(before, tag):
            first = place
        before = tag
    return found


def _ends(before: str, tag: str) -> bool:
    """Whether an entity ends between two tags."""
    if before == OUTSIDE:
        return False
    return before[0] in "ES" or tag[0] in "BSO" or tag[2:] != before[2:]


def _begins(before: str, tag: str) -> bool:
    """Whether an entity begins with the second of two tags."""
    if tag == OUTSIDE:
        return False
    return tag[0] in "BS" or before[0] in "ESO" or tag[2:] != before[2:]


def as_iob2(tags: Sequence[str]) -> list[str]:
    """The same entities, each beginning with `B-`."""
    written = [OUTSIDE] * len(tags)
    for kind, first, last in entities(tags):
        written[first : last + 1] = [f"B-{kind}", *[f"I-{kind}"] * (last - first)]
    return written


def iob2_labels(types: Iterable[str]) -> list[str]:
    """Every tag of these types."""
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in sorted(set(types)) for prefix in "BI")]
