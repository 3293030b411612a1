"""Laws of filters: `DocumentFilter`, a stage that passes on, drops or rewrites documents, lazily and in order."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any, cast

from penstock.conformance.documents import ODD_TEXTS, prose, sample_documents
from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.process import told_by_another_process
from penstock.conformance.randomness import leaves_the_random_state
from penstock.hooks.contracts import Document
from penstock.hooks.registry import Choice

FILTER = "filter"
PATIENCE = 4096


@law(FILTER)
def it_yields_documents(subject: Subject) -> None:
    """The filter maps an iterator to an iterator of `Document`s.

    Write `__call__` as a generator that yields the documents that pass.
    """
    found = subject.build()(iter(sample_documents()))
    expect(isinstance(found, Iterator), f"it returns a {type(found).__name__}, not an iterator")
    wrong = [each for each in cast("Iterator[Any]", found) if not isinstance(each, Document)]
    expect(not wrong, f"not a document: {wrong[:1]!r:.100}")


@law(FILTER, needs=(it_yields_documents,))
def nothing_comes_of_nothing(subject: Subject) -> None:
    """An empty stream gives an empty stream.

    Get the first document with a `for` loop or `next(documents, None)`.
    """
    expect(_through(subject, []) == [], "an empty stream gives documents")


@law(FILTER, needs=(it_yields_documents,))
def a_source_is_one_of_the_input(subject: Subject) -> None:
    """Every document that passes has the source of an input document.

    A rewritten document keeps its source: `Document(changed, document.source)`.
    """
    known = {document.source for document in sample_documents()}
    made_up = [document.source for document in _through(subject, sample_documents()) if document.source not in known]
    expect(not made_up, f"no document came from {made_up[:1]}")


@law(FILTER, needs=(a_source_is_one_of_the_input,))
def the_order_stays(subject: Subject) -> None:
    """Documents come out in input order.

    Yield each document before reading the next, or keep a queue.
    """
    place = {document.source: number for number, document in enumerate(sample_documents())}
    places = [place[document.source] for document in _through(subject, sample_documents())]
    expect(places == sorted(places), "a document overtakes another")


@law(FILTER, needs=(it_yields_documents,))
def a_document_passes_before_all_are_read(subject: Subject) -> None:
    """An endless stream can be filtered: documents come out before the input ends.

    A corpus does not fit in memory: do not use `list(documents)` or sort.
    """
    if not _through(subject, sample_documents()):
        raise NotApplicable("it drops all documents of the kit")

    def endless() -> Iterator[Document]:
        for number in itertools.count():
            expect(number < PATIENCE, f"{PATIENCE} documents went in before 8 came out")
            yield Document(prose(Random(number), sentences=8), f"endless:{number}")

    passed: Iterator[Document] = subject.build()(endless())
    expect(len(list(itertools.islice(passed, 8))) == 8, "it ends before its input does")


@law(FILTER, needs=(it_yields_documents,))
def an_error_of_the_corpus_comes_through(subject: Subject) -> None:
    """Exceptions of the input stream propagate to the reader.

    Catch only errors of the filter itself: a partial corpus must not look complete.
    """

    class Damaged(Exception):
        pass

    def breaking() -> Iterator[Document]:
        yield from sample_documents()
        raise Damaged

    try:
        for _ in subject.build()(breaking()):
            pass
    except Damaged:
        return
    expect(False, "the input stream raised, but the filtered stream just ended")


@law(FILTER, needs=(it_yields_documents,))
def any_text_is_taken(subject: Subject) -> None:
    """Empty, long and unusual texts pass or are dropped without an exception.

    Check indexing into an empty text, divisions by a length, and regular expressions that backtrack.
    """
    for number, text in enumerate(ODD_TEXTS):
        wanted = [Document(text, f"odd:{number}")]
        wrong = [each for each in subject.build()(iter(wanted)) if not isinstance(each, Document)]
        expect(not wrong, f"{text!r:.40} comes out as {wrong[:1]!r:.40}")


@law(FILTER, needs=(it_yields_documents,))
def objects_of_the_same_settings_agree(subject: Subject) -> None:
    """Two objects with the same settings pass the same documents.

    A corpus is prepared again if its shards are lost: keep no state in class or module, and seed with a setting.
    """
    choice = subject.choice()
    first, second = (list(choice.build()(iter(sample_documents()))) for _ in range(2))
    expect(first == second, f"the first passes {len(first)} documents, the second different ones ({len(second)})")


@law(FILTER, needs=(objects_of_the_same_settings_agree,))
def processes_agree(subject: Subject) -> None:
    """Another process passes the same documents.

    The built-in `hash` of a string differs between processes: use `hashlib` or xxhash.
    """
    choice = subject.choice()
    expect(told_by_another_process(digest, choice) == digest(choice), "another process passes different documents")


@law(FILTER, needs=(it_yields_documents,))
def filtering_draws_no_global_random_numbers(subject: Subject) -> None:
    """Building and filtering do not draw from global generators.

    Use your own `random.Random` or `numpy.random.Generator`, seeded by a setting.
    """
    leaves_the_random_state(lambda: _through(subject, sample_documents()))


@law(FILTER, needs=(the_order_stays,), capability="drops-only")
def what_passes_is_unchanged(subject: Subject) -> None:
    """Every document that passes is an input document with unchanged text and source, and passes once.

    Yield the document itself. A filter that rewrites texts does not declare this.
    """
    rest = iter(sample_documents())
    changed = [document.source for document in _through(subject, sample_documents()) if document not in rest]
    expect(not changed, f"{changed[:1]} was changed, or came out twice")


@law(FILTER, needs=(objects_of_the_same_settings_agree,), capability="idempotent")
def twice_is_once(subject: Subject) -> None:
    """Documents that passed pass a second filter with the same settings unchanged.

    A rule on single texts, or on duplicates, is idempotent; a rule that depends on earlier documents may not be.
    """
    once = _through(subject, sample_documents())
    expect(_through(subject, once) == once, "the second pass drops or changes more")


@law(FILTER, needs=(objects_of_the_same_settings_agree,), capability="stateless")
def a_second_stream_is_filtered_as_the_first(subject: Subject) -> None:
    """One object passes the same documents if it filters the same stream again.

    Keep what was seen in the generator, not in the object.
    """
    filter_ = subject.build()
    first, second = (list(filter_(iter(sample_documents()))) for _ in range(2))
    expect(first == second, f"of the same stream, {len(first)} documents pass first and {len(second)} then")


def digest(choice: Choice) -> str:
    """What passes, in one line."""
    pairs = [(document.text, document.source) for document in choice.build()(iter(sample_documents()))]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _through(subject: Subject, documents: Iterable[Document]) -> list[Document]:
    return list(subject.build()(iter(documents)))


LAWS = laws_in(globals())
