"""Laws of exact deduplication, against a Python set."""

from __future__ import annotations

import random
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.dedup import ExactDedup, _DigestSet
from penstock.hooks.contracts import Document


@settings(deadline=None)
@given(st.lists(st.text(max_size=3)))
def test_first_of_each_text_is_kept_in_order_and_the_rest_is_counted(texts: list[str]) -> None:
    dedup = ExactDedup()
    kept = list(dedup(Document(text, str(place)) for place, text in enumerate(texts)))
    first = dict[str, int]()
    for place, text in enumerate(texts):
        first.setdefault(text, place)
    assert [(document.text, document.source) for document in kept] == [(text, str(at)) for text, at in first.items()]
    assert (dedup.seen, dedup.dropped) == (len(texts), len(texts) - len(first))
    assert dedup.dropped_bytes == sum(len(t.encode()) for t in texts) - sum(len(t.encode()) for t in first)


def test_digest_set_is_a_set_through_every_growth() -> None:
    draw = random.Random(0)
    digests = [draw.randbytes(16) for _ in range(20_000)]
    digests += draw.choices(digests, k=5_000)
    ours, oracle = _DigestSet(), set[bytes]()
    for digest in digests:
        assert ours.add(digest) == (digest not in oracle)
        oracle.add(digest)
    assert len(ours) == len(oracle)
    assert sys.getsizeof(ours._table) / len(oracle) <= 43
