"""Laws of near duplicates, against all pairs compared as Python sets, and on articles with planted copies."""

from __future__ import annotations

import lzma
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.data_prep.cleaning.near import NearDuplicates, jaccard_similarity, share_of_prose
from penstock.hooks.contracts import Decision, Document
from penstock.hooks.problems import ProblemError


def edited(draw: random.Random, words: Sequence[str], edits: int) -> list[str]:
    """With `edits` words replaced, inserted or deleted."""
    words = list(words)
    for _ in range(edits):
        at = draw.randrange(len(words))
        words[at : at + draw.randrange(2)] = [f"new{draw.random()}"] * draw.randrange(2)
    return words


def corpus(families: int = 20, seed: int = 0) -> list[Document]:
    """Families of edited copies, of edited copies of those, and two texts without words."""
    draw = random.Random(seed)
    texts = ["", " ...\n"]
    for family in range(families):
        words = [f"w{family % 20}-{draw.randrange(50)}" for _ in range(draw.randrange(60, 200))]
        for _ in range(draw.randrange(1, 6)):
            words = edited(draw, words, draw.randrange(8))
            texts.append(" ".join(words))
    draw.shuffle(texts)
    return [Document(text, f"file:{place}") for place, text in enumerate(texts)]


def clean(near: NearDuplicates, documents: Sequence[Document], shard: int = 17) -> list[tuple[int, Decision]]:
    shards = [documents[start : start + shard] for start in range(0, len(documents), shard)]
    return list(near.compare([near.sketch(each) for each in shards], documents.__getitem__))


def similarities(near: NearDuplicates, documents: Sequence[Document]) -> dict[tuple[int, int], float]:
    """Of all pairs that share words."""
    sets = [set(near.signer.shingles(document.text)) for document in documents]
    pairs = [(one, other) for other in range(len(sets)) for one in range(other)]
    return {
        pair: len(both) / len(either)
        for pair in pairs
        if (both := sets[pair[0]] & sets[pair[1]])
        for either in [sets[pair[0]] | sets[pair[1]]]
    }


def components(count: int, pairs: set[tuple[int, int]]) -> list[list[int]]:
    """Connected documents, two or more, by the first of them: every label becomes the least that it meets."""
    label = list(range(count))
    for _ in range(count):
        for one, other in pairs:
            label[one] = label[other] = min(label[one], label[other])
    groups = [[place for place in range(count) if label[place] == first] for first in range(count)]
    return [group for group in groups if len(group) > 1]


def expected_clusters(near: NearDuplicates, documents: Sequence[Document]) -> list[list[int]]:
    keys = near.sketch(documents)
    found = {
        (one, other)
        for (one, other), similarity in similarities(near, documents).items()
        if similarity >= near.threshold and (keys[one] == keys[other]).any()
    }
    return components(len(documents), found)


@pytest.mark.parametrize("room", [312_000_000, 60_000])
@pytest.mark.parametrize("shard", [1000, 7])
def test_decisions_are_those_of_comparing_all_pairs_whatever_the_shards_and_the_memory(
    room: int, shard: int, tmp_path: Path
) -> None:
    documents = corpus()
    near = NearDuplicates(threshold=0.7, scratch=tmp_path)
    near.room = room
    clusters = expected_clusters(near, documents)
    expected = {place: members[0] for members in clusters for place in members[1:]}
    assert len(expected) > 20
    decisions = clean(near, documents, shard)
    assert [place for place, _ in decisions] == sorted(expected)
    assert {place: decision.repeats for place, decision in decisions} == {
        place: documents[kept].source for place, kept in expected.items()
    }
    real = similarities(near, documents)
    for place, decision in decisions:
        assert decision.rule == "near/duplicate"
        assert decision.text is None
        similarity = real.get((expected[place], place), 0.0)
        assert decision.detail.startswith(f"Jaccard similarity {similarity:.2f}")
        assert ("chained" in decision.detail) == (similarity < 0.7)
    assert any("chained" in decision.detail for _, decision in decisions)
    assert not list(tmp_path.iterdir())


def first(documents: Sequence[Document], members: Sequence[int]) -> int:
    return members[0]


def longest(documents: Sequence[Document], members: Sequence[int]) -> int:
    return max(members, key=lambda place: (len(documents[place].text), -place))


def most_x(documents: Sequence[Document], members: Sequence[int]) -> int:
    return max(members, key=lambda place: (documents[place].text.count("0"), -place))


@pytest.mark.parametrize(("keep", "choose"), [("earliest", first), ("longest", longest), ("best", most_x)])
def test_one_document_of_each_cluster_stays_and_cleaning_again_removes_nothing(
    keep: Any, choose: Callable[[Sequence[Document], Sequence[int]], int]
) -> None:
    documents = corpus(seed=1)
    near = NearDuplicates(keep=keep)
    near.quality = lambda document: document.text.count("0")
    clusters = expected_clusters(near, documents)
    decisions = dict(clean(near, documents))
    for members in clusters:
        kept = choose(documents, members)
        assert [place for place in members if place not in decisions] == [kept]
        assert {decisions[place].repeats for place in members if place != kept} == {documents[kept].source}
    assert len(decisions) == sum(len(members) - 1 for members in clusters)
    assert not clean(near, [document for place, document in enumerate(documents) if place not in decisions])


def test_texts_without_words_are_never_near() -> None:
    near = NearDuplicates()
    documents = [Document("", "a"), Document("?!", "b"), Document(" \n", "c")]
    assert not near.sketch(documents).any()
    assert not clean(near, documents)
    assert not list(near.compare([], documents.__getitem__))


def test_similarity_is_that_of_python_sets() -> None:
    near, draw = NearDuplicates(size=1), random.Random(3)
    for _ in range(50):
        left, right = ([f"w{draw.randrange(20)}" for _ in range(draw.randrange(20))] for _ in range(2))
        either = set(left) | set(right)
        expected = len(set(left) & set(right)) / len(either) if either else 0
        assert jaccard_similarity(near.shingle_set(" ".join(left)), near.shingle_set(" ".join(right))) == expected


def test_recall_keeps_its_bars_by_similarity() -> None:
    draw = random.Random(4)
    documents, pairs = list[Document](), 250
    for _ in range(pairs):
        words = [f"w{draw.randrange(10**6)}" for _ in range(draw.randrange(50, 150))]
        for text in (words, edited(draw, words, draw.randrange(1, 4))):
            documents.append(Document(" ".join(text), str(len(documents))))
    near = NearDuplicates()
    found = {place for place, _ in clean(near, documents, 1000)}
    real = {at: similarities(near, documents[at : at + 2])[0, 1] for at in range(0, 2 * pairs, 2)}
    for low, high, least in ((0.9, 1.0, 0.99), (0.8, 0.9, 0.95)):
        wanted = [at + 1 for at, similarity in real.items() if low <= similarity < high]
        assert len(wanted) > 60
        assert np.mean([place in found for place in wanted]) >= least
    assert all(real[place - 1] >= 0.8 for place in found)


@pytest.mark.parametrize("articles", [100, 1000])
def test_planted_copies_of_articles_are_all_found(articles: int) -> None:
    if not (data := os.environ.get("PENSTOCK_DATA")):
        pytest.skip("PENSTOCK_DATA names no folder with the articles")
    folder = Path(data, "dedup", "minhash_articles")
    lines = lzma.decompress((folder / f"articles_{articles}.train.xz").read_bytes()).decode().splitlines()
    documents = [Document(text, name) for name, text in (line.split(" ", 1) for line in lines)]
    planted = {frozenset(line.split()) for line in (folder / f"articles_{articles}.truth").read_text().splitlines()}
    found = {
        frozenset((documents[place].source, decision.repeats))
        for place, decision in clean(NearDuplicates(), documents, 400)
    }
    assert found == planted


def test_prose_is_told_from_menus() -> None:
    assert share_of_prose(Document('The gate is open. It leaks.\n"Close it!"', "")) == 1
    assert share_of_prose(Document("Home | About\nLogin", "")) == share_of_prose(Document("", "")) == 0
    assert share_of_prose(Document("1234567.\nabcdefgh", "")) == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0}, "0 is no similarity"),
        ({"threshold": 1.5}, "1.5 is no similarity"),
        ({"threshold": 0.1, "recall": 0.99, "permutations": 4}, "use more permutations"),
        ({"keep": "last"}, "keep is 'last'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        NearDuplicates(**settings)


def test_too_little_memory_is_refused_with_what_is_needed() -> None:
    with pytest.raises(ProblemError, match=r"max_ram: a process needs at least 232 MB"):
        NearDuplicates(max_ram=231_999_999)
    near = NearDuplicates(max_ram=232_000_000)
    many = np.zeros((500_001, near.banding.bands), np.uint64)
    with pytest.raises(ProblemError, match=r"max_ram: comparing 500,001 documents needs at least 233 MB"):
        list(near.compare([many], lambda place: Document("", "")))


def test_a_pair_exactly_at_the_threshold_is_near_and_not_chained() -> None:
    documents = [Document("a b c d e f g h", "one"), Document("a b c d e f g i j", "other")]
    ((place, decision),) = clean(NearDuplicates(threshold=0.7, size=1, permutations=512, recall=0.9999), documents)
    assert (place, decision.detail) == (1, "Jaccard similarity 0.70")
