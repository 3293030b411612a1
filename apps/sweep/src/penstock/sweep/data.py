"""The data of a sweep's cells: prepared before the first run, and known by its content.

A cell's results depend on the text that it was trained and measured on, so a hash of the prepared tokens belongs to its
key: after a change of the corpus every cell is trained again, and no two cells of one sweep have read different texts
without saying so in their settings. A corpus that was only copied or touched keeps the key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.cli import output
from penstock.cli.stage_progress import StageProgress
from penstock.data_prep.dataset import read_manifest
from penstock.hooks.problems import ProblemError
from penstock.run.config import RunConfig, digest
from penstock.run.records.data import DataRecord
from penstock.run.records.record import read_record
from penstock.sweep.files import SweepFiles
from penstock.sweep.grid import SHOWN, Cell, Sweep
from penstock.train.data import RECORD, content_settings, data_folder, prepare_data, require_filled


@dataclass(frozen=True, slots=True)
class CellData:
    """Prepared data: a hash of its files, and the tokens of its tokenizer."""

    hash: str
    vocabulary: int


def with_data(sweep: Sweep, runs: Path, *, prepare: bool) -> Sweep:
    """The sweep with the data of its cells in their keys, and their real vocabularies. Data that is not there is
    prepared, or with `prepare=False` left out; the keys of its cells are then those of no result.

    Raises `ProblemError` for text that is missing, and for a vocabulary of `model.plan` that the text does not fill.
    """
    files = SweepFiles(runs / sweep.settings.name)
    found: dict[str, CellData | None] = {}
    cells: list[Cell] = []
    for cell in sweep.cells:
        name = digest(cell.config.data.model_dump(mode="json"))
        if name not in found:
            found[name] = _prepared(cell.config, runs) if prepare else _found(cell.config, runs)
        data = found[name]
        if data is not None and cell.config.planned:
            require_filled(cell.config, data.vocabulary)
        cells.append(cell if data is None else _with_data(cell, data, files))
    return replace(sweep, cells=tuple(cells))


def other_vocabularies(sweep: Sweep) -> Sweep:
    """The cells whose text fills fewer tokens than they ask for, or whose tokenizer is given."""
    fits = [cell.vocabulary == cell.config.data.tokenizer.vocab_size for cell in sweep.cells]
    return replace(sweep, cells=tuple(cell for cell, fit in zip(sweep.cells, fits, strict=True) if not fit))


def data_of(run: Path) -> str | None:
    """The hash of the data that a run has read; None if it has not begun."""
    record = read_record(DataRecord, run / RECORD)
    return None if record is None else _hash(record.files)


def corpora_of(sweep: Sweep) -> list[dict[str, Any]]:
    """Each corpus that a cell reads, as a config writes it."""
    written = [cell.config.data.model_dump(mode="json", include={"corpus"})["corpus"] for cell in sweep.cells]
    return list({digest(each): each for each in written}.values())


def _prepared(config: RunConfig, runs: Path) -> CellData:
    with StageProgress() as progress:
        prepared = prepare_data(runs, config, progress)
    data = _of_folder(prepared.folder)
    wanted = config.data.tokenizer.vocab_size
    if config.data.tokenizer.file is None and data.vocabulary < wanted:
        what = f"the corpus fills {data.vocabulary:,} tokens of a vocabulary of {wanted:,}"
        output.warn(f"{what}; the cells have as many as it fills")
    return data


def _found(config: RunConfig, runs: Path) -> CellData | None:
    """Data that is prepared already. Raises `ProblemError` if neither it nor its text is there."""
    corpus = config.data.corpus.build()
    try:
        return _of_folder(data_folder(runs, config, corpus, content_settings(config)))
    except ProblemError:
        if hasattr(corpus, "fingerprint"):
            corpus.fingerprint()
        return None


def _of_folder(folder: Path) -> CellData:
    manifest, _ = read_manifest(folder)
    return CellData(_hash({name: record.sha256 for name, record in manifest.files.items()}), manifest.vocabulary_size)


def _hash(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:SHOWN]


def _with_data(cell: Cell, data: CellData, files: SweepFiles) -> Cell:
    """Cells of earlier versions keep their keys, which do not have the data, if all of their runs have read it."""
    key = hashlib.sha256(f"{cell.key} {data.hash}".encode()).hexdigest()[:SHOWN]
    if not files.has_cell(key) and (earlier := files.runs_of(cell.key)):
        filled = data.vocabulary == cell.config.data.tokenizer.vocab_size
        if (filled or cell.config.data.tokenizer.file) and {data_of(run) for run in earlier} <= {data.hash, None}:
            key = cell.key
    return replace(cell, key=key, data=data.hash, vocabulary=data.vocabulary)
