"""Settings of the stages of cleaning; the fields are the keyword arguments of their targets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field

from penstock.data_prep.cleaning.banding import RECALL
from penstock.data_prep.cleaning.gopher import STOP_WORDS
from penstock.data_prep.cleaning.gopher_repetition import REPEATED, TOP
from penstock.data_prep.cleaning.memory import LEAST, MAX_RAM, PROCESS, MemorySize
from penstock.data_prep.cleaning.normalise import Normaliser
from penstock.data_prep.cleaning.urls import TRACKING
from penstock.hooks.config import Schema
from penstock.hooks.inputs import InputPath, InputPattern, OutputPath

Share = Annotated[float, Field(ge=0, le=1)]
Gram = tuple[Annotated[int, Field(ge=1)], Share]


class GopherConfig(Schema):
    """Gopher's rules of quality (Rae et al. 2021, appendix A1.1). The defaults are the paper's; null turns a rule off.

    Words that consist of symbols alone do not count for the numbers and lengths of words.
    """

    minimum_words: int | None = Field(default=50, ge=0)
    """Fewest words of a document."""
    maximum_words: int | None = Field(default=100_000, ge=0)
    """Most words of a document."""
    minimum_mean_length: float | None = Field(default=3, ge=0)
    """Fewest characters of a word on average."""
    maximum_mean_length: float | None = Field(default=10, ge=0)
    """Most characters of a word on average."""
    maximum_hashes: float | None = Field(default=0.1, ge=0)
    """Most `#` for each word."""
    maximum_ellipses: float | None = Field(default=0.1, ge=0)
    """Most ellipses (`...` or `…`) for each word."""
    maximum_bullet_lines: Share | None = 0.9
    """Largest share of lines that begin with a bullet (`•` or `-`)."""
    maximum_ellipsis_lines: Share | None = 0.3
    """Largest share of lines that end with an ellipsis."""
    minimum_with_letters: Share | None = 0.8
    """Smallest share of words that have a letter."""
    minimum_stop_words: int | None = Field(default=2, ge=0)
    """Fewest different stop words."""
    stop_words: tuple[str, ...] = STOP_WORDS
    """The stop words, which are compared as written. The paper's are English; give those of your language."""


class GopherRepetitionConfig(Schema):
    """Gopher's rules of repetition (Rae et al. 2021, table A1). The defaults are the paper's; null turns a rule off.

    Paragraphs are parted by blank lines. A piece stood before if an earlier one has the same text.
    """

    maximum_paragraphs: Share | None = 0.3
    """Largest share of paragraphs that stood before."""
    maximum_paragraph_characters: Share | None = 0.2
    """Largest share of characters in such paragraphs."""
    maximum_lines: Share | None = 0.3
    """Largest share of lines that stood before."""
    maximum_line_characters: Share | None = 0.2
    """Largest share of characters in such lines."""
    top: tuple[Gram, ...] = TOP
    """Pairs of n and the largest share of characters in the n-gram of words that stands most often."""
    repeated: tuple[Gram, ...] = REPEATED
    """Pairs of n and the largest share of characters in n-grams of words that stood before."""


class C4Config(Schema):
    """C4's rules (Raffel et al. 2020, section 2.2). The defaults are those of the data set; null or false turns a rule
    off."""

    ended_lines: bool = True
    """Drop lines that do not end with `.`, `!`, `?` or a quote."""
    minimum_line_words: int | None = Field(default=3, ge=0)
    """Drop lines with fewer words."""
    maximum_word_length: int | None = Field(default=1000, ge=1)
    """Drop lines with a longer word."""
    citations: bool = True
    """Remove `[1]`, `[edit]` and `[citation needed]` from lines."""
    javascript: bool = True
    """Drop lines that say "javascript"."""
    policies: bool = True
    """Drop lines about cookies, privacy policies and terms of use."""
    lorem_ipsum: bool = True
    """Remove pages that say "lorem ipsum"."""
    curly_brackets: bool = True
    """Remove pages with a `{`."""
    minimum_sentences: int | None = Field(default=5, ge=0)
    """Remove pages of which fewer sentences are left."""


class FineWebConfig(Schema):
    """FineWeb's own rules (Penedo et al. 2024, section 3.4). The defaults are those of the data set; null turns a rule
    off. Blank lines do not count."""

    minimum_ended_lines: Share | None = 0.12
    """Smallest share of lines that end as sentences do."""
    maximum_short_lines: Share | None = 0.67
    """Largest share of short lines."""
    short_line: int = Field(default=30, ge=0)
    """Most characters of a short line."""
    maximum_repeated_characters: Share | None = 0.01
    """Largest share of characters in lines that stood before."""
    maximum_new_lines: float | None = Field(default=0.3, ge=0)
    """Most new lines for each word."""


class LanguageConfig(Schema):
    """Languages that are kept."""

    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Codes of the languages (ISO 639), such as `en`."""
    minimum: Share = 0.65
    """Smallest probability that the model must give the language; FineWeb's threshold."""
    by: Literal["document", "paragraph"] = "document"
    """Decide of whole documents, or of each paragraph (a line, with the short lines after it)."""
    shortest: int = Field(default=50, ge=1)
    """Characters of a line that is asked about by itself."""
    model: Literal["py3langid", "fasttext"] = "py3langid"
    """`fasttext` needs the extra `fasttext`; its model lid.176.ftz is licensed CC BY-SA 3.0."""


class MaskingConfig(Schema):
    """What is written in place of personal data; null leaves a sort alone."""

    email: str | None = "<EMAIL>"
    """For an e-mail address."""
    ip: str | None = "<IP>"
    """For a public IPv4 or IPv6 address; numbers of versions stay."""
    phone: str | None = "<PHONE>"
    """For a telephone number with a `+` and a country code, or of North America."""


class UrlsConfig(Schema):
    """Repeated URLs: the first document of each is kept."""

    missing: Literal["keep", "remove", "refuse"] = "keep"
    """What to do with a document whose URL is missing or cannot be read: pass it on, remove it, or stop with an
    error."""
    tracking: tuple[str, ...] = TRACKING
    """Parameters that do not count, for they only tell where a visitor came from; `*` stands for any ending."""


class ExactConfig(Schema):
    """Equal documents, paragraphs or lines; the first of the corpus stays."""

    unit: Literal["document", "paragraph", "line"] = "document"
    """What is compared. Equal documents are removed, equal paragraphs and lines cut out."""
    normaliser: Normaliser | None = None
    """What equal texts may differ in: `{}` for case, punctuation, whitespace and Unicode's form, or some of
    `{case: keep, punctuation: keep, whitespace: keep, unicode: none}`. Without it, texts are equal character by
    character: a line that ends with CR LF is not the same line with LF."""
    min_characters: int = Field(default=20, ge=1)
    """Shorter paragraphs and lines stay."""


class NearConfig(Schema):
    """Near duplicates: one document of each cluster stays."""

    threshold: float = Field(default=0.8, gt=0, le=1)
    """Least Jaccard similarity of the sets of shingles of near duplicates. 0.8 as in SlimPajama and in most
    deduplication of web text."""
    recall: float = Field(default=RECALL, gt=0, lt=1)
    """Least probability of finding a pair at the threshold; pairs above are found more often. It decides the bands."""
    keep: Literal["earliest", "longest", "best"] = "earliest"
    """Which document of a cluster stays: the first of the corpus, the one with most characters, or the one with the
    largest share of its characters in lines that end a sentence."""
    permutations: int = Field(default=128, ge=1)
    """Values of a signature."""
    seed: int = Field(default=1, ge=0, lt=2**32)
    """Of the permutations."""
    scheme: Literal["affine32", "affine64", "legacy"] = "affine32"
    """datasketch's scheme of permutations."""
    hash: Literal["xxh32", "sha1"] = "xxh32"
    """Of shingles. sha1 is datasketch's default, and slower."""
    unit: Literal["word", "character"] = "word"
    """What a shingle is made of; `character` for scripts that write no spaces, such as Chinese and Thai."""
    size: int = Field(default=5, ge=1)
    """Words or characters of a shingle."""
    normaliser: Normaliser | None = None
    """What near duplicates may differ in; by default case, punctuation, whitespace and Unicode's form."""
    max_ram: MemorySize = Field(default=ByteSize(MAX_RAM), ge=PROCESS + LEAST)
    """Memory of the process that compares, such as `512MB`; what does not fit is sorted on disk."""
    scratch: OutputPath | None = None
    """Folder for what is sorted on disk: 12 bytes for each band of a document. By default the system's folder of
    temporary files."""


class SubstringsConfig(Schema):
    """Spans that stand in several documents; the first of the corpus keeps them."""

    tokens: int = Field(default=50, ge=2)
    """Shortest span, in words or Chinese and Japanese characters; 50 as in Lee et al. (2022), where these are BPE
    tokens."""
    action: Literal["cut", "remove"] = "cut"
    """`cut` puts a form feed in place of each span, `remove` removes documents that repeat `share`."""
    share: float = Field(default=0.5, gt=0, le=1)
    """With `remove`: share of a document's tokens in spans from which on it is removed."""


class DecontaminateConfig(Schema):
    """Words of evaluations in documents."""

    paths: tuple[InputPattern, ...] = Field(min_length=1)
    """JSON Lines files of evaluations, with their texts under `text`; folders and globs. The name of a file before its
    first dot is that of the evaluation."""
    words: int = Field(default=13, ge=1)
    """How many successive words a document and an evaluation have in common; 13 as in GPT-3."""
    shortest: int = Field(default=8, ge=1)
    """Texts of fewer than `words` words are looked for as a whole from this number on."""
    action: Literal["remove", "cut"] = "remove"
    """`remove` removes the document, `cut` puts a form feed in place of the common words."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        lines = [json.dumps({"text": text}) for text in ("When did the mill stand still?", "It was in 1871.")]
        (folder / "history.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return {"paths": [str(folder)], "words": 5, "shortest": 3}


@cache
def _example_model() -> Any:
    """Trained once, for an interval takes a second."""
    from penstock.data_prep.cleaning.contrastive import learn

    texts = [[f"{kind} number {number} of {number % 9}" for number in range(200)] for kind in ("good", "dull")]
    return learn(*texts, buckets=1024)


class _OfModel(Schema):
    """A stage that reads the file of `penstock data learn`."""

    model: InputPath
    """The file that `penstock data learn` wrote."""
    keep: float = Field(default=0.3, gt=0, lt=1)
    """Share of ordinary text that is kept, as text says that was held out of the training."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        _example_model().save(folder / "model.npz")
        return {"model": str(folder / "model.npz")}


class ContrastiveConfig(_OfModel):
    """Removes texts that a classifier finds ordinary."""

    least: float | None = Field(default=None, gt=0, lt=1)
    """Smallest probability of good text; instead of `keep`."""


class ResamplingConfig(_OfModel):
    """Removes texts so that the others have the words of good ones: a sample by importance."""
