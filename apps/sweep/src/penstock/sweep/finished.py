"""A finished sweep is read again without its cells: `finished.json` says which files it was finished for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.hooks.atomic import read_json, write_json
from penstock.hooks.config import read_config
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.run.plugin_lock import content_hash
from penstock.run.records.record import read_record
from penstock.run.records.sweep import SweepFigures
from penstock.sweep.files import FIGURES

FINISHED = "finished.json"


@dataclass(frozen=True, slots=True)
class Finished:
    """A sweep that needs nothing, as its last walk left it."""

    name: str
    figures: SweepFigures
    report: Path


def finished_sweep(sweep_file: Path, runs: Path, registry: Registry) -> Finished | None:
    """The finished sweep of a file; None if anything differs from when it was finished, or the file is not valid."""
    try:
        written = read_config(sweep_file).value
        name, config = str(written["name"]), Path(written["config"])
    except (ProblemError, KeyError, TypeError):
        return None
    folder = runs / name
    config = config if config.is_absolute() else sweep_file.parent / config
    figures = _figures(folder, [sweep_file, config], registry)
    return None if figures is None else Finished(name, figures, folder / "sweep.html")


def note_finished(
    folder: Path, inputs: list[Path], code: dict[str, str], corpora: list[dict[str, Any]], registry: Registry
) -> None:
    """Remembers that nothing is left to do for these contents of the sweep file and the run config, this code and these
    corpora, which are as a config writes them."""
    try:
        data = [{"corpus": each, "fingerprint": _fingerprint(each, registry)} for each in corpora]
    except ProblemError:  # a text that is gone: nothing tells whether it comes back unchanged
        return
    files = [*inputs, folder / FIGURES]
    told = {
        "files": {str(path.resolve()): _hash(path) for path in files},
        "code": code,
        "data": data,
        "selection": registry.selection.arguments(),
        "cells": len(list(folder.glob("cells/*/*/rungs/*.json"))),
    }
    write_json(folder / FINISHED, told)


def _figures(folder: Path, inputs: list[Path], registry: Registry) -> SweepFigures | None:
    try:
        told = read_json(folder / FINISHED)
        same = (
            told["files"] == {str(path.resolve()): _hash(path) for path in [*inputs, folder / FIGURES]}
            and told["selection"] == registry.selection.arguments()
            and told["cells"] == len(list(folder.glob("cells/*/*/rungs/*.json")))
            and all(content_hash(target) == digest for target, digest in told["code"].items())
            and all(_same_data(each, registry) for each in told["data"])
        )
    except (OSError, ValueError, KeyError, TypeError):  # absent, or of another version
        return None
    return read_record(SweepFigures, folder / FIGURES) if same else None


def _fingerprint(corpus: dict[str, Any], registry: Registry) -> Any:
    """What tells without reading a corpus that it has changed, as JSON reads it back; None for one that has none."""
    built = registry.choose("corpus", corpus, "data.corpus").build()
    return json.loads(json.dumps(built.fingerprint())) if hasattr(built, "fingerprint") else None


def _same_data(noted: dict[str, Any], registry: Registry) -> bool:
    """Whether a corpus is as it was. A text that is gone is: its tokens outlive it."""
    try:
        return _fingerprint(noted["corpus"], registry) == noted["fingerprint"]
    except ProblemError:
        return True


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
