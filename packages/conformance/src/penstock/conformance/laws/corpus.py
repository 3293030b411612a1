"""Laws of corpora: `Corpus`, which yields documents in a fixed order.

A corpus may be endless or take hours to read, so that the laws look at its first documents alone.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.process import told_by_another_process
from penstock.conformance.randomness import leaves_the_random_state
from penstock.hooks.contracts import Document
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Choice

CORPUS = "corpus"
HEAD = 64


@law(CORPUS)
def it_yields_documents(subject: Subject) -> None:
    """`documents()` is an iterator of `Document`s with string text and source; the example yields at least one.

    Write `documents` as a generator that yields `Document(text, source)`; let `example` of the schema write some text.
    """
    found = subject.build().documents()
    expect(isinstance(found, Iterator), f"documents() is a {type(found).__name__}, not an iterator")
    head: list[Any] = list(itertools.islice(cast("Iterator[Any]", found), HEAD))
    expect(head, "no documents")
    for document in head:
        good = isinstance(document, Document) and {type(document.text), type(document.source)} == {str}
        expect(good, f"not a document of two strings: {document!r:.100}")


@law(CORPUS, needs=(it_yields_documents,))
def a_text_can_be_written(subject: Subject) -> None:
    """Every text encodes to UTF-8.

    A lone surrogate is not a character: decode with `errors="strict"`, not `surrogateescape`.
    """
    for document in _head(subject.build()):
        try:
            document.text.encode("utf-8")
        except UnicodeEncodeError as error:
            expect(False, f"{document.source}: {error}")


@law(CORPUS, needs=(it_yields_documents,))
def a_source_is_a_place(subject: Subject) -> None:
    """Every source says where the text came from.

    Give the path, URL or name, plus the line or row if a file has several documents.
    """
    bare = [number for number, document in enumerate(_head(subject.build())) if not document.source.strip()]
    expect(not bare, f"document {bare[:1]} has no source")


@law(CORPUS, needs=(a_source_is_a_place,))
def a_source_names_one_document(subject: Subject) -> None:
    """No two documents have the same source.

    Problems are reported by source: add the line, row or index in the file.
    """
    sources = [document.source for document in _head(subject.build())]
    twice = next((source for source in sources if sources.count(source) > 1), "")
    expect(not twice, f"more than one document comes from '{twice}'")


@law(CORPUS, needs=(it_yields_documents,))
def it_is_read_again_from_the_start(subject: Subject) -> None:
    """A second call of `documents()` yields the same documents in the same order.

    Open the input in `documents`, not in the constructor, and do not shuffle.
    """
    corpus = subject.build()
    expect(_head(corpus) == _head(corpus), "the second reading yields different documents")


@law(CORPUS, needs=(it_is_read_again_from_the_start,))
def readings_do_not_disturb_one_another(subject: Subject) -> None:
    """Two concurrent readings each yield every document.

    Keep the reading position in the generator, not in the object.
    """
    corpus = subject.build()
    alone = _head(corpus)
    together = list(itertools.islice(zip(corpus.documents(), corpus.documents(), strict=False), HEAD))
    expect(together == [(each, each) for each in alone], "concurrent readings yield different documents")


@law(CORPUS, needs=(it_is_read_again_from_the_start,))
def objects_of_the_same_settings_agree(subject: Subject) -> None:
    """Two objects with the same settings yield the same documents in the same order.

    Every rank builds its own: sort folder listings, and seed random draws from the settings.
    """
    choice = subject.choice()
    expect(_head(choice.build()) == _head(choice.build()), "the second object yields different documents")


@law(CORPUS, needs=(objects_of_the_same_settings_agree,))
def processes_agree(subject: Subject) -> None:
    """Another process yields the same documents in the same order.

    String hashes differ between processes: sort the elements of a set.
    """
    choice = subject.choice()
    expect(told_by_another_process(digest, choice) == digest(choice), "another process yields different documents")


@law(CORPUS, needs=(objects_of_the_same_settings_agree,))
def a_copy_is_the_same_corpus(subject: Subject) -> None:
    """A deep or pickled copy yields the same documents.

    Workers get copies: store settings as attributes, not open files, clients or lambdas.
    """
    corpus = subject.build()
    for name, other in (("deep", copy.deepcopy(corpus)), ("pickled", pickle.loads(pickle.dumps(corpus)))):
        expect(_head(other) == _head(corpus), f"the {name} copy yields different documents")


@law(CORPUS, needs=(it_yields_documents,))
def reading_draws_no_global_random_numbers(subject: Subject) -> None:
    """Building and reading do not draw from global generators.

    Use your own `random.Random` or `numpy.random.Generator`, seeded by a setting.
    """
    leaves_the_random_state(lambda: _head(subject.build()))


@law(CORPUS, needs=(it_yields_documents,))
def a_missing_input_is_a_problem_that_names_it(subject: Subject) -> None:
    """If a path in the settings does not exist, building or reading raises a `ProblemError` that names it.

    Turn the OSError into `ProblemError(Problem(code, what, where=path, fix))`, and never silently yield nothing.
    """
    paths = _paths(subject)
    if not paths:
        raise NotApplicable("no setting is a path that exists")
    for name in paths:
        missing = str(subject.folder / "there-is-no-such-input")
        value = subject.fields[name]
        changes = {name: missing if isinstance(value, str) else [missing]}
        try:
            _head(subject.build(changes))
        except ProblemError as error:
            expect(missing in str(error), f"{name}: the problem does not name {missing}: {error}")
        else:
            expect(False, f"{name}: nothing is raised for {missing}")


@law(CORPUS, needs=(objects_of_the_same_settings_agree,), capability="fingerprint")
def a_fingerprint_stands_for_the_input(subject: Subject) -> None:
    """`fingerprint()` is a JSON mapping that is equal for the same input and changes when a file is written to.

    Hash names, sizes and modification times of the input files. Without this method the input is assumed unchanged.
    """
    choice = subject.choice()
    prints = [_written(choice.build().fingerprint()) for _ in range(2)]
    expect(prints[0] == prints[1], "two objects of the same settings have different fingerprints")
    for path in itertools.chain.from_iterable(_paths(subject).values()):
        before = _written(choice.build().fingerprint())
        _touch(Path(path))
        expect(_written(choice.build().fingerprint()) != before, f"it is the same after {path} was written to")


def digest(choice: Choice) -> str:
    """What the first documents are, in one line."""
    pairs = [(document.text, document.source) for document in _head(choice.build())]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _head(corpus: Any) -> list[Document]:
    return list(itertools.islice(corpus.documents(), HEAD))


def _paths(subject: Subject) -> Mapping[str, Sequence[str]]:
    """The settings that are existing paths, and those paths."""
    found: dict[str, list[str]] = {}
    for name, value in subject.fields.items():
        values: list[Any] = [value] if isinstance(value, str) else list(value) if _is_sequence(value) else []
        if values and all(isinstance(each, str) and Path(each).exists() for each in values):
            found[name] = values
    return found


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence)


def _written(fingerprint: Any) -> str:
    expect(isinstance(fingerprint, Mapping), f"the fingerprint is a {type(fingerprint).__name__}")
    return json.dumps(fingerprint, sort_keys=True)


def _touch(path: Path) -> None:
    """Moves the time of a file, or of the files of a folder, as writing to them would."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000_000_000))


LAWS = laws_in(globals())
