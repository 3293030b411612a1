"""What comparers decide of texts, cut into shards, and what is left of the texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.hooks.contracts import Decision, Document


def decide(stage: Any, texts: Sequence[str], shard: int = 3) -> dict[int, Decision]:
    """Decisions by place; the source of a text is its place."""
    documents = [Document(text, str(place)) for place, text in enumerate(texts)]
    sketches = [stage.sketch(documents[start : start + shard]) for start in range(0, len(texts), shard)]
    decided = list(stage.compare(sketches, documents.__getitem__))
    assert [place for place, _ in decided] == sorted({place for place, _ in decided})
    return dict(decided)


def applied(texts: Sequence[str], decided: dict[int, Decision]) -> list[str]:
    after = [decided[place].text if place in decided else text for place, text in enumerate(texts)]
    return [text for text in after if text is not None]
