"""`RoutingTrace`: which experts were chosen, in a file that trainers write and simulators and reports read.

Shape suffixes: S steps, L mixture-of-experts layers, E experts, N tokens, K experts per token.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.atomic import replacing
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError
from penstock.traces.header import check_header

FORMAT = 1
_RESERVED = {"format", "arrays"}  # keys that the file adds to the header


@dataclass(frozen=True, slots=True)
class RoutingTrace:
    """Expert assignments of a model over some text.

    `counts_SLE` int64: assignments computed per step, layer and expert. `expert_NLK` optional: the experts of each
    token, int, in stream order, if every token has the same number in every layer; they are then all that is counted,
    and those of a token are different. `header`: model, k, layers (model layer index of each row of L), hidden_size,
    tokenizer, data hash, domain labels; anything that JSON can hold, except for the keys `format` and `arrays`. Raises
    ValueError if these disagree.
    """

    counts_SLE: NDArray[np.int64]
    header: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    expert_NLK: NDArray[np.integer[Any]] | None = None

    def __post_init__(self) -> None:
        if self.counts_SLE.ndim != 3 or self.counts_SLE.dtype != np.int64:
            raise ValueError(
                f"counts_SLE must be int64 [steps, layers, experts], not {self.counts_SLE.dtype} "
                f"{self.counts_SLE.shape}"
            )
        if (self.counts_SLE < 0).any():
            raise ValueError("counts_SLE has negative counts")
        if _RESERVED & self.header.keys():
            raise ValueError("the header keys `format` and `arrays` are reserved; use other keys")
        check_header(self.header, self.counts_SLE.shape)
        if self.expert_NLK is not None:
            _check_experts(self.expert_NLK, self.counts_LE, self.header.get("k"))

    @property
    def counts_LE(self) -> NDArray[np.int64]:
        """Assignments over all steps."""
        return self.counts_SLE.sum(axis=0)

    def save(self, path: str | Path) -> None:
        """Writes the trace atomically: the file is complete or absent."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"counts_SLE": self.counts_SLE}
        if self.expert_NLK is not None:
            arrays["expert_NLK"] = self.expert_NLK
        header = json.dumps({**self.header, "format": FORMAT, "arrays": sorted(arrays)})
        arrays["header"] = np.frombuffer(header.encode(), dtype=np.uint8)
        with replacing(path) as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> RoutingTrace:
        """Reads a trace; raises `ProblemError` if the file is missing, damaged or not a trace."""
        path = Path(path)
        if not path.exists():
            raise ProblemError(
                Problem("missing-file", "trace not found", str(path), "`penstock profile RUN` writes one")
            )
        try:
            return cls(*_read(path))
        except Exception as error:  # zip, zlib, numpy and json each raise their own errors on damaged bytes
            fix = "record it again, for example with `penstock profile RUN`"
            problem = Problem("bad-trace", f"not a routing trace, or damaged ({error})", str(path), fix)
            raise ProblemError(problem) from error


def _check_experts(expert_NLK: NDArray[np.integer[Any]], counts_LE: NDArray[np.int64], k: Any) -> None:
    layers, experts = counts_LE.shape
    shape, kind = expert_NLK.shape, expert_NLK.dtype
    if len(shape) != 3 or shape[1] != layers or not np.issubdtype(kind, np.integer):
        raise ValueError(f"expert_NLK must be integers [tokens, {layers}, k], not {kind} {shape}")
    if expert_NLK.size and (expert_NLK.min() < 0 or expert_NLK.max() >= experts):
        raise ValueError(f"expert_NLK has experts outside 0..{experts - 1}")
    if set(k if isinstance(k, list) else [k]) - {shape[2], None}:
        raise ValueError(f"expert_NLK has {shape[2]} experts per token, but the header's 'k' is {k}")
    for row in range(layers):  # one layer at a time, because all of them may be gigabytes
        sorted_NK = np.sort(expert_NLK[:, row], axis=1)
        if (sorted_NK[:, 1:] == sorted_NK[:, :-1]).any():
            raise ValueError(f"in layer row {row} a token names an expert twice")
        if (np.bincount(sorted_NK.ravel(), minlength=experts) != counts_LE[row]).any():
            raise ValueError(f"in layer row {row} the tokens' experts (expert_NLK) are not those that are counted")


def _read(path: Path) -> tuple[NDArray[np.int64], dict[str, Any], NDArray[np.integer[Any]] | None]:
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()  # numpy would trust a damaged array header before it checks the checksum
    if damaged:
        raise ValueError(f"the checksum of {damaged} is wrong")
    with np.load(path, allow_pickle=False) as archive:
        header: dict[str, Any] = parse_json(archive["header"].tobytes())
        if header.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}, the format that this version reads")
        held = sorted(set(archive.files) - {"header"})
        if header.pop("arrays", held) != held:  # a zip's table of contents has no checksum and can lose an entry
            raise ValueError(f"some of its arrays are missing; left are {', '.join(held)}")
        return archive["counts_SLE"], header, archive.get("expert_NLK")
