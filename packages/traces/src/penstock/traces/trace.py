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
from penstock.hooks.problems import Problem, ProblemError

FORMAT = 1
_RESERVED = {"format", "arrays"}  # keys that the file adds to the header


@dataclass(frozen=True, slots=True)
class RoutingTrace:
    """Expert assignments of a model over some text.

    `counts_SLE` int64: assignments computed per step, layer and expert. `expert_NLK` optional: the experts of each
    token, int, in stream order, if every token has the same number in every layer. `header`: model, k, layers (model
    layer index of each row of L), hidden_size, tokenizer, data hash, domain labels; anything that JSON can hold, except
    for the keys `format` and `arrays`. Raises ValueError if these disagree.
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
        if "layers" in self.header:
            _require_layers(self.header["layers"], self.counts_SLE.shape[1])
        if self.expert_NLK is not None:
            layers, experts = self.counts_SLE.shape[1:]
            shape, kind = self.expert_NLK.shape, self.expert_NLK.dtype
            if len(shape) != 3 or shape[1] != layers or not np.issubdtype(kind, np.integer):
                raise ValueError(f"expert_NLK must be integers [tokens, {layers}, k], not {kind} {shape}")
            if self.expert_NLK.size and (self.expert_NLK.min() < 0 or self.expert_NLK.max() >= experts):
                raise ValueError(f"expert_NLK has experts outside 0..{experts - 1}")

    @property
    def counts_LE(self) -> NDArray[np.int64]:
        """Assignments over all steps."""
        return self.counts_SLE.sum(axis=0)

    def save(self, path: Path) -> None:
        """Writes the trace atomically: the file is complete or absent."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"counts_SLE": self.counts_SLE}
        if self.expert_NLK is not None:
            arrays["expert_NLK"] = self.expert_NLK
        header = json.dumps({**self.header, "format": FORMAT, "arrays": sorted(arrays)})
        arrays["header"] = np.frombuffer(header.encode(), dtype=np.uint8)
        with replacing(path) as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> RoutingTrace:
        """Reads a trace; raises `ProblemError` if the file is missing, damaged or not a trace."""
        if not path.exists():
            raise ProblemError(
                Problem("missing-file", "trace not found", str(path), "`penstock profile RUN` writes one")
            )
        try:
            return cls(*_read(path))
        except Exception as error:  # zip, zlib, numpy and json each raise their own errors on damaged bytes
            raise ProblemError(Problem("bad-trace", f"not a routing trace, or damaged ({error})", str(path))) from error


def _require_layers(layers: Any, rows: int) -> None:
    """Raises ValueError if the header does not name the layer of each row. A layer with two mixtures has two rows."""
    numbers = isinstance(layers, list | tuple) and all(type(each) is int and each >= 0 for each in layers)
    if not numbers or len(layers) != rows:
        raise ValueError(f"the header's 'layers' must be a list of {rows} integers, one per layer, none below 0")


def _read(path: Path) -> tuple[NDArray[np.int64], dict[str, Any], NDArray[np.integer[Any]] | None]:
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()  # numpy would trust a damaged array header before it checks the checksum
    if damaged:
        raise ValueError(f"the checksum of {damaged} is wrong")
    with np.load(path, allow_pickle=False) as archive:
        header: dict[str, Any] = json.loads(archive["header"].tobytes())
        if header.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}, the format that this version reads")
        held = sorted(set(archive.files) - {"header"})
        if header.pop("arrays", held) != held:  # a zip's table of contents has no checksum and can lose an entry
            raise ValueError(f"some of its arrays are missing; left are {', '.join(held)}")
        return archive["counts_SLE"], header, archive.get("expert_NLK")
