"""Laws of cleaners: stages that say of each document whether it stays, and why not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from itertools import pairwise
from typing import Any

from penstock.conformance.documents import ODD_TEXTS, sample_documents
from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.process import told_by_another_process
from penstock.conformance.randomness import leaves_the_random_state
from penstock.hooks.contracts import Decision, Document
from penstock.hooks.registry import Choice

CLEANER = "cleaner"
SHARD = 7
"""Documents of a shard; no divisor of the number of all."""
Decided = list[tuple[int, Decision]]


@law(CLEANER)
def it_judges_or_compares(subject: Subject) -> None:
    """The stage has `judge`, or `sketch` and `compare`, but not all.

    Write two components if a stage does both.
    """
    cleaner = subject.build()
    judges = callable(getattr(cleaner, "judge", None))
    compares = callable(getattr(cleaner, "sketch", None)) and callable(getattr(cleaner, "compare", None))
    expect(judges or compares, "it has neither `judge` nor `sketch` and `compare`")
    expect(not (judges and compares), "it has `judge`, and `sketch` and `compare` too")


@law(CLEANER, needs=(it_judges_or_compares,))
def decisions_have_a_rule_and_a_place(subject: Subject) -> None:
    """A decision is a `Decision` with the name of a rule, of a document that exists; places ascend.

    Name each rule, such as `gopher/words`: reports count removals by it.
    """
    documents = sample_documents()
    decided = _decided(subject.build(), documents)
    for place, decision in decided:
        expect(isinstance(decision, Decision), f"document {place} is decided by {decision!r:.60}")
        expect(decision.rule.strip() != "" and "\n" not in decision.rule, f"a rule is named {decision.rule!r}")
        expect("\n" not in decision.detail, f"a detail has several lines: {decision.detail!r:.80}")
        expect(place in range(len(documents)), f"document {place} of {len(documents)} is decided")
    places = [place for place, _ in decided]
    expect(all(one < other for one, other in pairwise(places)), "places do not ascend")


@law(CLEANER, needs=(decisions_have_a_rule_and_a_place,))
def what_is_repeated_stays(subject: Subject) -> None:
    """`repeats` is the source of another document, which is not removed.

    Name the document of a cluster that is kept, not the neighbour that was found.
    """
    documents = sample_documents()
    decided = dict(_decided(subject.build(), documents))
    removed = {documents[place].source for place, decision in decided.items() if decision.text is None}
    known = {document.source for document in documents}
    for decision in decided.values():
        expect(decision.repeats is None or decision.repeats in known, f"no document came from {decision.repeats}")
        expect(decision.repeats not in removed, f"{decision.repeats} is repeated and removed")


@law(CLEANER, needs=(it_judges_or_compares,))
def nothing_is_decided_of_nothing(subject: Subject) -> None:
    """A corpus without documents has no decisions, and an empty shard adds none.

    Return an array of shape [0, ...] from `sketch([])`, and concatenate arrays that may be empty.
    """
    expect(_decided(subject.build(), []) == [], "documents are decided where none are")
    cleaner, documents = subject.build(), sample_documents()
    if hasattr(cleaner, "sketch"):
        sketches = [cleaner.sketch([]), *_sketches(cleaner, documents), cleaner.sketch([])]
        found = list(cleaner.compare(sketches, documents.__getitem__))
        expect(found == _decided(subject.build(), documents), "an empty shard changes decisions")


@law(CLEANER, needs=(it_judges_or_compares,))
def any_text_is_taken(subject: Subject) -> None:
    """Empty, long and unusual texts are decided without an exception.

    Check indexing into an empty text, divisions by a length, and regular expressions that backtrack.
    """
    _decided(subject.build(), [Document(text, f"odd:{number}") for number, text in enumerate(ODD_TEXTS)])


@law(CLEANER, needs=(decisions_have_a_rule_and_a_place,))
def shards_play_no_part(subject: Subject) -> None:
    """Decisions are the same however the corpus is cut into shards.

    `sketch` sees one shard: what depends on other documents belongs into `compare`.
    """
    if not hasattr(subject.build(), "sketch"):
        raise NotApplicable("it decides of each document alone")
    documents = sample_documents()
    whole, cut = (_decided(subject.build(), documents, shard) for shard in (len(documents), SHARD))
    expect(whole == cut, f"one shard gives {len(whole)} decisions, shards of {SHARD} documents others ({len(cut)})")


@law(CLEANER, needs=(decisions_have_a_rule_and_a_place,))
def asked_again_it_decides_the_same(subject: Subject) -> None:
    """One object decides the same of the same documents, however often it is asked.

    Keep nothing between two calls: a stage that was killed is asked again.
    """
    cleaner, documents = subject.build(), sample_documents()
    first, second = (_decided(cleaner, documents) for _ in range(2))
    expect(first == second, f"it decides of {len(first)} documents, and then of others ({len(second)})")


@law(CLEANER, needs=(decisions_have_a_rule_and_a_place,))
def processes_agree(subject: Subject) -> None:
    """Another object in another process decides the same.

    The built-in `hash` of a string differs between processes: use `hashlib` or xxhash. Seed with a setting.
    """
    choice = subject.choice()
    expect(told_by_another_process(digest, choice) == digest(choice), "another process decides otherwise")


@law(CLEANER, needs=(asked_again_it_decides_the_same, shards_play_no_part))
def what_is_cleaned_is_clean(subject: Subject) -> None:
    """Of what is left, with the texts that it changed, nothing is decided any more.

    Look at the text that a decision makes as at any other; measure what is left after lines are gone.
    """
    documents = sample_documents()
    decided = dict(_decided(subject.build(), documents))
    left = list(_left(documents, decided))
    again = _decided(subject.build(), left)
    said = [f"{left[place].source}: {decision.rule}" for place, decision in again]
    expect(not again, f"the second pass decides of {len(again)} documents more ({'; '.join(said[:2])})")


@law(CLEANER, needs=(it_judges_or_compares,))
def cleaning_draws_no_global_random_numbers(subject: Subject) -> None:
    """Building and deciding do not draw from global generators.

    Use your own `random.Random` or `numpy.random.Generator`, seeded by a setting.
    """
    leaves_the_random_state(lambda: _decided(subject.build(), sample_documents()))


@law(CLEANER, needs=(decisions_have_a_rule_and_a_place,))
def a_language_comes_with_the_same_decision(subject: Subject) -> None:
    """`judge_language`, where the stage has it, names a language of every document, and decides as `judge` does.

    Let `judge` return the decision of `judge_language`.
    """
    cleaner = subject.build()
    if not hasattr(cleaner, "judge_language"):
        raise NotApplicable("it tells no languages")
    odd = (Document(text, f"odd:{number}") for number, text in enumerate(ODD_TEXTS))
    for document in [*sample_documents(), *odd]:
        language, decision = cleaner.judge_language(document)
        expect(isinstance(language, str) and language.strip() != "", f"{document.source} has language {language!r:.60}")
        expect(decision == cleaner.judge(document), f"{document.source} is decided otherwise by `judge`")


def digest(choice: Choice) -> str:
    """What is decided, in one line."""
    decided = _decided(choice.build(), sample_documents())
    return hashlib.sha256(json.dumps([(place, astuple(each)) for place, each in decided]).encode()).hexdigest()


def _decided(cleaner: Any, documents: Sequence[Document], shard: int = SHARD) -> Decided:
    if hasattr(cleaner, "judge"):
        judged = ((place, cleaner.judge(document)) for place, document in enumerate(documents))
        return [(place, decision) for place, decision in judged if decision is not None]
    return list(cleaner.compare(_sketches(cleaner, documents, shard), documents.__getitem__))


def _sketches(cleaner: Any, documents: Sequence[Document], shard: int = SHARD) -> list[Any]:
    starts = range(0, len(documents), shard) if documents else [0]
    return [cleaner.sketch(documents[start : start + shard]) for start in starts]


def _left(documents: Sequence[Document], decided: dict[int, Decision]) -> Iterator[Document]:
    for place, document in enumerate(documents):
        text = decided[place].text if place in decided else document.text
        if text is not None:
            yield Document(text, document.source, document.url)


LAWS = laws_in(globals())
