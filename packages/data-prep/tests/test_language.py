"""Languages by both models, by document and by paragraph."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.language import Language
from penstock.hooks.contracts import Decision, Document
from penstock.hooks.problems import ProblemError

_ENGLISH = "The old mill stands by the river, and nobody has opened its gate since the winter."
_FRENCH = "Le vieux moulin se dresse près de la rivière, et personne n'a ouvert sa porte depuis l'hiver."
_GERMAN = "Die alte Mühle steht am Fluss, und seit dem Winter hat niemand mehr ihr Tor geöffnet."
_SHORT = "Menu"
_MODELS = pytest.mark.parametrize("model", ["py3langid", "fasttext"])


def _judge(text: str, **settings: Any) -> Decision | None:
    return Language(**settings).judge(Document(text, "here"))


@_MODELS
def test_documents_of_other_languages_go_by_their_name(model: Any) -> None:
    assert _judge(_ENGLISH, model=model) is None
    decision = _judge(_FRENCH, model=model)
    assert decision is not None
    assert (decision.rule, decision.text) == ("language/fr", None)
    assert _judge(_FRENCH, model=model, languages=("de", "fr")) is None


@_MODELS
def test_a_text_of_no_language_is_unsure(model: Any) -> None:
    decision = _judge("123 456 789", model=model)
    assert decision is not None
    assert decision.rule == "language/unsure"


@_MODELS
def test_any_text_is_taken(model: Any) -> None:
    for text in ("", "\n\n", "\x00", "\ud800", "x" * 100_000):
        for by in ("document", "paragraph"):
            _judge(text, model=model, by=by)


def test_the_language_of_a_document_is_that_of_most_characters() -> None:
    def language(text: str, **settings: Any) -> tuple[str, bool]:
        found, decision = Language(**settings).judge_language(Document(text, "here"))
        return found, decision is None

    assert language(_ENGLISH) == ("en", True)
    assert language(_FRENCH) == ("fr", False)
    assert language("123 456 789") == ("unsure", False)
    mixed = "\n".join([_ENGLISH, _FRENCH, _GERMAN, _FRENCH])
    assert language(mixed, by="paragraph") == ("fr", False)
    assert language(mixed, by="paragraph", languages=("en", "de", "fr")) == ("fr", True)


def test_paragraphs_go_with_the_short_lines_behind_them() -> None:
    text = "\n".join([_SHORT, _ENGLISH, _SHORT, _FRENCH, _SHORT, "", _GERMAN, _ENGLISH])
    decision = _judge(text, by="paragraph")
    assert decision == Decision(
        "language/paragraphs",
        "2 of 4 paragraphs: 1 de, 1 fr",
        text="\n".join([_SHORT, _ENGLISH, _SHORT, _ENGLISH]),
    )


def test_a_document_of_short_lines_is_asked_about_as_a_whole() -> None:
    lines = _FRENCH.replace(", ", ",\n").replace(" de ", "\nde ")
    decision = _judge(lines, by="paragraph")
    assert decision is not None
    assert decision.rule == "language/fr"
    assert _judge(lines, by="paragraph", languages=("fr",)) is None


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([_ENGLISH, _FRENCH, _SHORT, "", "12:30", "\r"]), max_size=8))
def test_what_is_left_stays(lines: list[str]) -> None:
    decision = _judge("\n".join(lines), by="paragraph")
    if decision is not None and decision.text is not None:
        assert _judge(decision.text, by="paragraph") is None


@_MODELS
def test_an_unknown_language_is_refused(model: Any) -> None:
    with pytest.raises(ProblemError, match="does not know the language 'english'"):
        Language(languages=("english",), model=model)


_DATA = os.environ.get("PENSTOCK_DATA", "")
_NAMES = {"deu": "de", "eng": "en", "fra": "fr", "spa": "es", "por_PT": "pt", "rus": "ru", "jpn": "ja", "tur": "tr"}


@pytest.mark.skipif(not _DATA, reason="PENSTOCK_DATA is not set")
@_MODELS
def test_declarations_of_human_rights_are_named(model: Any) -> None:
    with zipfile.ZipFile(Path(_DATA) / "multilingual" / "udhr2.zip") as archive:
        members = {Path(name).stem: name for name in archive.namelist()}
        for name, language in _NAMES.items():
            text = archive.read(members[name]).decode()
            assert _judge(text, model=model, languages=(language,)) is None, name
