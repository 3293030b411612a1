"""The prepared data of a config, and of a run.

    runs/data/<corpus>-<settings>-<input>/

`settings` is a hash of corpus, filters, tokenizer and split, and `input` one of the corpus's fingerprint: configs that
agree in these share their data, whatever they are called. A run records the SHA-256 of every file that it read, so its
data is found again wherever the run was copied to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from penstock.data_prep.dataset import TokenDataset, read_manifest
from penstock.data_prep.prepare import Fingerprinted, Prepared, fingerprint_of, prepare
from penstock.data_prep.shards import MANIFEST
from penstock.data_prep.tokenizer import read_tokenizer
from penstock.hooks.config import read_config
from penstock.hooks.contracts import Corpus, TrainingData
from penstock.hooks.problems import Problem, ProblemError
from penstock.run.config import RESOLVED, RunConfig, digest
from penstock.run.directory import RunDirectory
from penstock.run.records.data import DataRecord
from penstock.run.records.record import read_record, write_record

RECORD = "data.json"


def prepare_data(root: Path, config: RunConfig, progress: Callable[[str, int, int | None], None] | None) -> Prepared:
    """Prepares the config's data, or finds it prepared."""
    corpus = config.data.corpus.build()
    settings = content_settings(config)
    prepared = prepare(
        corpus,
        [choice.build() for choice in config.data.filters],
        data_folder(root, config, corpus, settings),
        vocabulary_size=config.data.tokenizer.vocab_size,
        sequence_length=config.data.sequence_length,
        heldout_share=config.data.heldout_share,
        seed=config.data.seed,
        sample_bytes=config.data.tokenizer.sample_bytes,
        tokenizer_file=config.data.tokenizer.file,
        describe=settings,
        progress=progress,
    )
    if config.planned:
        require_filled(config, prepared.manifest.vocabulary_size)
    return prepared


def require_filled(config: RunConfig, tokens: int) -> None:
    """Raises `ProblemError` if the corpus fills fewer tokens than the plan has rows for: the model would never train
    the other rows, and its share of embedding parameters would be smaller than planned."""
    wanted = config.data.tokenizer.vocab_size
    if config.data.tokenizer.file is None and tokens < wanted:
        what = f"the corpus fills {tokens:,} tokens of a vocabulary of {wanted:,}, and the model has a row for each"
        fix = f"use at most {tokens:,} tokens, more text, or a larger data.tokenizer.sample_bytes"
        raise ProblemError(Problem("unfilled-vocabulary", what, "data.tokenizer.vocab_size", fix))


def content_settings(config: RunConfig) -> dict[str, Any]:
    """The settings on which the prepared data depends; an existing tokenizer counts by its content, not its path."""
    settings = config.data_settings()
    file = config.data.tokenizer.file
    if file is None:
        return settings
    return {**settings, "tokenizer": {"sha256": hashlib.sha256(read_tokenizer(file)).hexdigest()}}


def data_folder(root: Path, config: RunConfig, corpus: Corpus, settings: dict[str, Any]) -> Path:
    """Where the data is, or will be. Tokens outlive their text: if that is gone, the only folder with these settings
    is the one."""
    folder = root / "data" / f"{config.data.corpus.entry.component.name}-{digest(settings)}"
    if not isinstance(corpus, Fingerprinted):
        return folder
    fingerprint = fingerprint_of(corpus)
    if fingerprint is None and len(made := list(folder.parent.glob(f"{folder.name}-*"))) == 1:
        return made[0]
    return folder.with_name(f"{folder.name}-{digest(fingerprint)}")


def record_data(run: RunDirectory, dataset: TokenDataset) -> None:
    """Records in the run's folder which data it reads."""
    write_record(run.path / RECORD, DataRecord(_hashes(dataset.folder), str(dataset.folder.resolve())))


def open_data(run: RunDirectory, config: RunConfig) -> TokenDataset:
    """The data that a run was trained on; raises `ProblemError` if it is nowhere."""
    folder = find_data(run)
    if folder is None:
        root = _root(run, config)
        raise ProblemError(
            Problem(
                "missing-data",
                f"the data of this run was not found (searched {', '.join(map(str, _places(run)))})",
                str(run.path),
                f"prepare the same text again with `penstock prepare {run.path / RESOLVED} --runs {root}`",
            )
        )
    return TokenDataset.open(folder, verify=False)


def find_data(run: RunDirectory, *more: Path) -> Path | None:
    """The folder of the data that a run was trained on, searched for next to the run, under the folders of runs `more`,
    and where it was; None if it is nowhere."""
    record = read_record(DataRecord, run.path / RECORD)
    return _found_by_name(run, *more) if record is None else find_recorded(record, _places(run, *more))


def find_recorded(record: DataRecord, places: Sequence[Path]) -> Path | None:
    """The folder of the data of a record, in one of the places or where it was; None if it is nowhere."""
    folders = (manifest.parent for place in places for manifest in sorted(place.glob(f"[!.]*/{MANIFEST}")))
    return next((folder for folder in (*folders, Path(record.folder)) if _hashes(folder) == record.files), None)


def _places(run: RunDirectory, *more: Path) -> list[Path]:
    roots = [run.runs, run.path.resolve().parent, Path("runs").resolve(), *(path.resolve() for path in more)]
    return [root / "data" for root in dict.fromkeys(roots)]


def _root(run: RunDirectory, config: RunConfig) -> Path:
    """The folder of runs that a run lies in, or the folder that it was copied to."""
    folder = run.path.resolve().parent
    return run.runs if folder.name == config.name else folder


def _hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of prepared data, by name, as its manifest has it; empty if it is not prepared data."""
    try:
        manifest, _ = read_manifest(folder)
    except ProblemError:
        return {}
    return {name: record.sha256 for name, record in manifest.files.items()}


def _found_by_name(run: RunDirectory, *more: Path) -> Path | None:
    """Runs before `data.json` had their data in a folder named after the run's name and settings."""
    written = read_config(run.path / RESOLVED).value
    name = f"{written['name']}-{digest({'seed': written['seed'], **written['data']})}"
    found = (place / name for place in _places(run, *more))
    return next((folder for folder in found if folder.is_dir()), None)


def training_data(config: RunConfig, dataset: TokenDataset) -> TrainingData:
    """The data from which the config's objective makes its batches."""
    tokenizer = dataset.tokenizer()
    return TrainingData(
        train=dataset.split("train"),
        heldout=dataset.split("heldout"),
        tokenizer=tokenizer,
        end_of_text=tokenizer.end_of_text,
        byte_lengths_V=tokenizer.byte_lengths(),
        sequence_length=config.data.sequence_length,
        batch_size=config.train.batch_size,
        heldout_tokens=config.train.evaluate_tokens,
        seed=config.seed,
    )
