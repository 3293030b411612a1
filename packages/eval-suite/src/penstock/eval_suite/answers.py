"""Results that a model has already computed: in memory, and in a file that outlives the process.

The file has JSON lines, one per batch, appended once the batch is computed. A killed process leaves complete lines and
at most one damaged line, which is dropped with everything after it when the file is opened again. A run that continues
computes the same batches with the same rows, and so has the same bits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock.eval_suite.rows import Output, Row
from penstock.hooks.contracts import LikelihoodAnswer
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError


class AnswerStore:
    """Outputs of rows for the model that `weights` identifies, such as a hash of its parameters and code. Raises
    `ProblemError` if the file cannot be read or written."""

    def __init__(self, weights: str = "", path: Path | None = None) -> None:
        self._weights = weights
        self._path = path
        self._outputs: dict[str, Output] = {}
        if path is not None and path.exists():
            self._read(path)

    @classmethod
    def in_folder(cls, folder: Path, weights: str) -> AnswerStore:
        """The store of these weights; each model has its own file in the folder."""
        return cls(weights, folder / f"{hashlib.sha256(weights.encode()).hexdigest()[:16]}.jsonl")

    def key(self, row: Row) -> str:
        return hashlib.sha256(f"{self._weights} {row.digest()}".encode()).hexdigest()

    def __contains__(self, key: str) -> bool:
        return key in self._outputs

    def __getitem__(self, key: str) -> Output:
        return self._outputs[key]

    def add(self, batch: Mapping[str, Output]) -> None:
        """Stores the outputs of a batch: all of them, or none if the process dies."""
        self._outputs.update(batch)
        if self._path is None:
            return
        line = json.dumps({key: _written(output) for key, output in batch.items()}) + "\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            what = f"answers cannot be stored ({error.strerror})"
            raise ProblemError(Problem("cannot-write", what, str(self._path), "free space and start again")) from error

    def _read(self, path: Path) -> None:
        """Reads the complete lines, and truncates the file after the last of them."""
        try:
            whole = 0
            with path.open("r+b") as file:
                for line in file:
                    outputs = _parsed(line)
                    if outputs is None:
                        break
                    self._outputs.update(outputs)
                    whole += len(line)
                file.truncate(whole)
        except OSError as error:
            what = f"stored answers cannot be read ({error.strerror})"
            raise ProblemError(
                Problem("unreadable-file", what, str(path), "delete it to compute them again")
            ) from error


def _parsed(line: bytes) -> dict[str, Output] | None:
    """The outputs in a line, or None if it is damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        return {key: _read_back(value) for key, value in parse_json(line).items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _written(output: Output) -> Any:
    """Arrays as base64; in fp32, at half the size, if that keeps every bit."""
    if isinstance(output, np.ndarray):
        single = output.astype("<f4")
        stored = single if np.array_equal(single.astype(np.float64), output) else output.astype("<f8")
        return {stored.dtype.str: base64.b64encode(stored.tobytes()).decode()}
    if isinstance(output, LikelihoodAnswer):
        return [output.nll, output.likeliest]
    return {"tokens": output}


def _read_back(value: Any) -> Output:
    if isinstance(value, Sequence):
        nll, likeliest = value
        return LikelihoodAnswer(float(nll), bool(likeliest))
    ((name, stored),) = value.items()
    if name == "tokens":
        return [int(token) for token in stored]
    return np.frombuffer(base64.b64decode(stored, validate=True), dtype=name).astype(np.float64)
