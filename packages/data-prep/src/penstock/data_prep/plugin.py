"""Components of this package; imports nothing heavy."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl


@hookimpl
def corpora() -> list[Component]:
    return [
        _corpus("python-stdlib", "PythonStdlib", "Source of the running Python's standard library; needs no download"),
        _corpus("text", "TextCorpus", "Text files, folders and globs, plain or compressed"),
        _corpus("jsonl", "JsonLines", "JSON Lines files, plain or compressed"),
        _corpus("parquet", "Parquet", "A string column of Parquet files"),
        _corpus("hf", "HuggingFaceDataset", "A dataset of the Hugging Face hub, or a local one", frozenset()),
        Component(
            kind="corpus",
            name="cleaned",
            target="penstock.data_prep.cleaning.cleaned:CleanedCorpus",
            config="penstock.data_prep.config:CleanedCorpusConfig",
            summary="What is left of a corpus that `penstock data clean` has cleaned",
            capabilities=frozenset({"fingerprint"}),
        ),
    ]


@hookimpl
def filters() -> list[Component]:
    return [
        Component(
            kind="filter",
            name="exact-dedup",
            target="penstock.data_prep.dedup:ExactDedup",
            summary="Drops documents whose text was seen before",
            capabilities=frozenset({"drops-only", "idempotent"}),
        )
    ]


@hookimpl
def cleaners() -> list[Component]:
    return [
        _cleaner("urls", "urls:Urls", "Urls", "Keeps the first document of each URL"),
        _cleaner("exact", "exact:Exact", "Exact", "Removes equal documents, or cuts out equal paragraphs or lines"),
        _cleaner("near", "near:NearDuplicates", "Near", "Keeps one of each cluster of near duplicates, by MinHash"),
        _cleaner(
            "substrings",
            "substrings:Substrings",
            "Substrings",
            "Cuts out spans of tokens that earlier documents have",
        ),
        _cleaner("gopher", "gopher:Gopher", "Gopher", "Gopher's rules of quality"),
        _cleaner(
            "gopher-repetition",
            "gopher_repetition:GopherRepetition",
            "GopherRepetition",
            "Gopher's rules of repetition",
        ),
        _cleaner("c4", "c4:C4", "C4", "C4's rules: cuts out lines, and removes pages"),
        _cleaner("fineweb", "fineweb:FineWeb", "FineWeb", "FineWeb's own rules of quality"),
        _cleaner("language", "language:Language", "Language", "Keeps documents, or paragraphs, of some languages"),
        _cleaner("masking", "masking:Masking", "Masking", "Masks e-mail addresses, IP addresses and telephone numbers"),
        _cleaner(
            "decontaminate",
            "decontaminate:decontamination",
            "Decontaminate",
            "Removes what stands in evaluations",
        ),
        _cleaner(
            "contrastive",
            "contrastive:Contrastive",
            "Contrastive",
            "Removes texts that a classifier finds ordinary",
        ),
        _cleaner("resampling", "contrastive:Resampling", "Resampling", "Keeps a sample by importance for good text"),
    ]


def _cleaner(name: str, target: str, settings: str, summary: str) -> Component:
    return Component(
        kind="cleaner",
        name=name,
        target=f"penstock.data_prep.cleaning.{target}",
        config=f"penstock.data_prep.cleaning.config:{settings}Config",
        summary=summary,
    )


def _corpus(
    name: str, target: str, summary: str, capabilities: frozenset[str] = frozenset({"fingerprint"})
) -> Component:
    return Component(
        kind="corpus",
        name=name,
        target=f"penstock.data_prep.corpora:{target}",
        config=f"penstock.data_prep.config:{target}Config",
        summary=summary,
        capabilities=capabilities,
    )
