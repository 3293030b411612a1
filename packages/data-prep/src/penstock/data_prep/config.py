"""Settings of the corpora. Field names are the keyword arguments of the classes in `corpora.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.hooks.inputs import InputPath, InputPattern

_EXAMPLE = ("The gate is open.", "Zwölf Turbinen laufen.\n", "The mill stands still; 水 is what it waits for.")


class PythonStdlibConfig(Schema):
    """The standard library of the running Python."""

    tests: bool = False
    """Include the test suites. They are 19 of the 31 MB in Python 3.11, mostly tables of cases rather than prose or
    programs."""
    docstrings: bool = True
    """Add one document per built-in module with its docstrings, because built-in modules have no source files."""


class TextCorpusConfig(Schema):
    """Text files."""

    paths: tuple[InputPattern, ...] = Field(min_length=1)
    """Files, folders (searched recursively) and globs; .gz, .bz2, .xz and .zst files are decompressed."""
    pattern: str = "**/*"
    """Which files of a folder are read. Names that start with a dot are never read."""
    separator: str | None = None
    """Splits a file into documents, for example `<|endoftext|>`; newlines around it are dropped. Without a separator,
    each file is one document."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        for number, text in enumerate(_EXAMPLE):
            (folder / f"{number}.txt").write_text(text, encoding="utf-8")
        return {"paths": [str(folder)]}


class JsonLinesConfig(Schema):
    """JSON Lines: one object per line."""

    paths: tuple[InputPattern, ...] = Field(min_length=1)
    """Files, folders (searched recursively for .jsonl files) and globs; .gz, .bz2, .xz and .zst files are
    decompressed."""
    field: str = "text"
    """The key of the text in each object."""
    url: str | None = None
    """The key of each text's address, which a line may lack. By default no document has an address."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        lines = [json.dumps({"text": text}) for text in _EXAMPLE]
        (folder / "example.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return {"paths": [str(folder)]}


class ParquetConfig(Schema):
    """Parquet files."""

    paths: tuple[InputPattern, ...] = Field(min_length=1)
    """Files, folders (searched recursively for *.parquet) and globs."""
    field: str = "text"
    """The string column that holds the text."""
    url: str | None = None
    """The column of each text's address, or null. By default no document has an address."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        from penstock.data_prep.files import import_extra

        pyarrow = import_extra("pyarrow", "parquet", "an example for the corpus 'parquet'")
        parquet = import_extra("pyarrow.parquet", "parquet", "an example for the corpus 'parquet'")
        parquet.write_table(pyarrow.table({"text": list(_EXAMPLE)}), folder / "example.parquet")
        return {"paths": [str(folder)]}


class HuggingFaceDatasetConfig(Schema):
    """A dataset that the `datasets` library can load."""

    name: str
    """Name on the hub, or a local folder."""
    subset: str | None = None
    """The dataset's configuration, for example `en` of `allenai/c4`."""
    split: str = "train"
    """The split to read; held-out documents are taken from it too."""
    field: str = "text"
    """The string column that holds the text."""
    streaming: bool = True
    """Read while downloading instead of downloading first. The documents are spooled to disk once in either case."""
    url: str | None = None
    """The column of each text's address, or null. By default no document has an address."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        from penstock.data_prep.files import import_extra

        datasets = import_extra("datasets", "hf", "an example for the corpus 'hf'")
        datasets.Dataset.from_dict({"text": list(_EXAMPLE)}).save_to_disk(str(folder / "example"))
        return {"name": str(folder / "example")}


class CleanedCorpusConfig(Schema):
    """What is left of a corpus that `penstock data clean` has cleaned."""

    folder: InputPath
    """The folder that the cleaning wrote."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        from penstock.data_prep.cleaning.clean import clean
        from penstock.data_prep.corpora import TextCorpus
        from penstock.hooks.registry import Registry

        corpus = TextCorpus(**TextCorpusConfig.example(folder))
        clean(corpus, [], folder / "cleaned", Registry.discover(), describe={"use": "text"})
        return {"folder": str(folder / "cleaned")}
