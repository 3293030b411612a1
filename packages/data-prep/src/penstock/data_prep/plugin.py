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
