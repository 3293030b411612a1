"""Entities in a sequence of tags, and their scores.

`entities` reads tags as conlleval and seqeval's default read them: leniently, in any of the schemes IOB1 (a `B-` only
where two entities of a type touch, as in CoNLL-2003), IOB2, IOE and IOBES. `strict_entities` reads them as seqeval's
strict mode: what does not follow the scheme is no entity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

Entity = tuple[str, int, int]
"""Type, first and last word."""

Scheme: TypeAlias = Literal["IOB2", "IOE2", "IOBES", "BILOU"]

OUTSIDE = "O"
_ENTITY = {"IOB2": "BI*", "IOE2": "I*E", "IOBES": "S|BI*E", "BILOU": "U|BI*L"}
"""The prefixes of an entity's tags in each scheme."""
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


def strict_entities(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """The entities that follow a scheme, in the order in which they begin. Raises ValueError for a tag whose prefix the
    scheme does not have."""
    if wrong := [tag for tag in tags if tag[0] not in {OUTSIDE, *_ENTITY[scheme]} - {"|", "*"}]:
        raise ValueError(f"'{wrong[0]}' is not a tag of {scheme}")
    return [
        (kind, start + match.start(), start + match.end() - 1)
        for kind, start, prefixes in _runs(tags)
        for match in re.finditer(_ENTITY[scheme], prefixes)
    ]


def _runs(tags: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    """Neighbouring tags of the same type: the type, the place of the first, and the prefixes of all."""
    start = 0
    for kind, run in groupby(tags, key=lambda tag: tag[2:]):
        prefixes = "".join(tag[0] for tag in run)
        yield kind, start, prefixes
        start += len(prefixes)


@dataclass(frozen=True, slots=True)
class EntityScores:
    """Of whole entities, over all sentences together; 0 where there is nothing to divide by."""

    precision: float
    recall: float
    f1: float


def entity_scores(
    gold: Sequence[Sequence[str]], said: Sequence[Sequence[str]], strict: Scheme | None = None
) -> EntityScores:
    """The scores of the tags said of each sentence: an entity is right if its type, its beginning and its end are. With
    `strict`, tags are read by that scheme alone."""

    def read(tags: Sequence[str]) -> set[Entity]:
        return set(entities(tags) if strict is None else strict_entities(tags, strict))

    right = found = expected = 0
    for gold_tags, said_tags in zip(gold, said, strict=True):
        gold_entities, said_entities = read(gold_tags), read(said_tags)
        right += len(gold_entities & said_entities)
        found += len(said_entities)
        expected += len(gold_entities)
    return EntityScores(_share(right, found), _share(right, expected), _share(2 * right, found + expected))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


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
