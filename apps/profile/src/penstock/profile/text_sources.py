"""The text of `penstock profile --corpus`, and its domains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.cli.choices import choose
from penstock.data_prep.prepare import Fingerprinted
from penstock.hooks.contracts import Corpus
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry

_SEVERAL = "give --corpus more than once, or one folder with a file or a folder for each domain"


@dataclass(frozen=True, slots=True)
class Source:
    """Text of one domain, or of all text if `domain` is None."""

    domain: str | None
    corpora: Sequence[Corpus]


def text_sources(registry: Registry, texts: Sequence[str], domains: bool) -> list[Source]:
    """The sources of `--corpus`: one, or with `domains` one for each `--corpus`, or for each file and folder in a
    single folder. A text is `[NAME=]PATH` or `[NAME=]{use: CORPUS, ...}`. Raises `ProblemError`
    for an invalid one, for fewer than two domains, and for two domains of the same name."""
    named = [_split(text) for text in texts]
    if not domains:
        if any(name is not None for name, _ in named):
            raise _refused("NAME= names a domain, but --domains is not set", "add --domains")
        return [Source(None, [_corpus(registry, text) for _, text in named])] if named else []
    if len(named) == 1 and named[0][0] is None and os.path.isdir(named[0][1]):
        inside = sorted(path for path in Path(named[0][1]).iterdir() if not path.name.startswith("."))
        named = [(None, str(path)) for path in inside]
    sources = [Source(name or _usual_name(registry, text), [_corpus(registry, text)]) for name, text in named]
    names = [source.domain for source in sources]
    if len(names) < 2:
        found = f"there is only one domain, '{names[0]}'" if names else "the folder is empty"
        raise _refused(f"{found}, but preferences compare several domains", _SEVERAL)
    if twice := [name for name in names if names.count(name) > 1]:
        raise _refused(f"two domains are named '{twice[0]}'", "name them with --corpus NAME=PATH")
    return sources


def _split(text: str) -> tuple[str | None, str]:
    """The given name, if any, and the text."""
    if not text.strip():
        raise _refused("the value is empty", "give a file or a folder, or leave the option out")
    name, equals, rest = text.partition("=")
    # Not `Path.exists`, which raises for a name that is too long, as `maths={use: jsonl, ...}` may be.
    if not equals or text.startswith("{") or os.path.exists(text):
        return None, text
    if not name or not rest.strip():
        raise _refused(f"'{text}' is not NAME=PATH", "write it as in --corpus code=src")
    return name, rest


def _corpus(registry: Registry, text: str) -> Corpus:
    corpus: Corpus = choose(
        registry, "corpus", text if text.startswith("{") else {"use": "text", "paths": [text]}
    ).build()
    if isinstance(corpus, Fingerprinted):
        corpus.fingerprint()  # finds the files, so a missing one is reported before a model is loaded
    return corpus


def _usual_name(registry: Registry, text: str) -> str:
    """The name of a component, or of a file or folder up to its first dot."""
    if text.startswith("{"):
        return choose(registry, "corpus", text).entry.component.name
    return Path(text).resolve().name.partition(".")[0]


def _refused(what: str, fix: str) -> ProblemError:
    return ProblemError(Problem("bad-value", what, "--corpus", fix))
