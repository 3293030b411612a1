"""Whole tokens of a ternary model on the processor: one call of the compiled library a token; numpy, no torch."""

from __future__ import annotations

import ctypes
import itertools
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.quant158 import native
from penstock.quant158.decoder.arguments import Sampling, StoredModel, Tensors
from penstock.quant158.decoder.description import Description
from penstock.quant158.stored import format_of
from penstock.quant158.values import VALUES

_MOST_THREADS = 8  # beyond, the barriers of a token cost more than they save
_i32, _i64 = ctypes.c_int32, ctypes.c_int64


class NotDecodableError(Exception):
    """The decoder cannot run this model; the message says why. The torch path can."""


class Decoder:
    """A model in memory, as the kernels read it. Texts are independent, but it computes for one at a time."""

    def __init__(
        self, tensors: Tensors, description: Description, *, threads: int | None = None, kernel: str | None = None
    ) -> None:
        """`threads` None: one a core, up to 8; results do not depend on it. Raises `NotDecodableError` for tensors in
        formats that the decoder lacks, and where the library was not built; `ProblemError` for tensors that do not fit
        the description."""
        if not native.built():
            raise NotDecodableError(f"its kernel was not built: {native.BUILD}")
        _require_decodable(tensors, description)
        self.description = description
        self.threads = usable_threads() if threads is None else threads
        self.kernel = native.kernel(kernel)
        stored = StoredModel(tensors, description)
        why, which = _i32(), _i64()
        address = native.library().penstock_decoder_new(
            self.kernel.address, ctypes.byref(stored.model), self.threads, ctypes.byref(why), ctypes.byref(which)
        )
        if not address:
            raise _not_built(why.value, stored.matrix_names[which.value])
        self._address: int = address
        weakref.finalize(self, native.library().penstock_decoder_free, address)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in memory."""
        return native.library().penstock_decoder_bytes(self._address)

    def text(self, capacity: int | None = None) -> Text:
        """An empty text with room for so many tokens (None: all positions of the model)."""
        positions = self.description.positions
        return Text(self, positions if capacity is None else min(capacity, positions))

    def next_tokens(
        self,
        prompt: Sequence[int],
        *,
        tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Iterator[int]:
        """Up to `tokens` tokens behind a prompt, as the model of the run draws them with this seed."""
        text = self.text(len(prompt) + tokens)
        text.seed(seed)
        fresh = prompt
        for _ in range(tokens):
            token = text.next(fresh, temperature=temperature, top_k=top_k, top_p=top_p)
            yield token
            fresh = (token,)


class Text:
    """The tokens that a model has read, as its keys and values."""

    def __init__(self, decoder: Decoder, capacity: int) -> None:
        address = native.library().penstock_text_new(decoder._address, capacity)
        if not address:
            raise MemoryError(f"no memory for a text of {capacity} tokens")
        self.decoder = decoder
        self.capacity = capacity
        self.length = 0
        self._address: int = address
        weakref.finalize(self, _free_text, address, decoder)  # the decoder outlives its texts
        self._drawn = _i32()

    def seed(self, seed: int) -> None:
        """Starts the draws anew."""
        native.library().penstock_text_seed(self._address, seed)

    def cut(self, length: int) -> None:
        """Forgets the tokens from number `length` on."""
        self.length = min(self.length, length)
        native.library().penstock_text_cut(self._address, length)

    def read(self, tokens: Sequence[int]) -> None:
        """Reads more tokens. Raises `ProblemError` if the text is full, or if the model does not know a token."""
        self._call(native.library().penstock_text_read, tokens, None)

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Reads more tokens: [n, vocabulary], what the model expects after each."""
        out = np.empty((len(tokens), self.decoder.description.vocabulary), np.float32)
        self._call(native.library().penstock_text_read, tokens, out.ctypes.data)
        return out

    def next(
        self, tokens: Sequence[int], *, temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None
    ) -> int:
        """Reads more tokens, at least one, and draws the next, which is not read yet. Raises `ProblemError` for logits
        that are NaN or infinite."""
        if not tokens:
            raise ValueError("the next token is drawn behind at least one")
        sampling = Sampling(temperature, 1.0 if top_p is None else top_p, top_k or 0)
        arguments = (ctypes.byref(sampling), ctypes.byref(self._drawn))
        self._call(native.library().penstock_text_next, tokens, *arguments)
        return self._drawn.value

    def _call(self, function: Any, tokens: Sequence[int], *arguments: Any) -> None:
        count = len(tokens)
        if self.length + count > self.capacity:
            what = f"{self.length + count} tokens, but the text has room for {self.capacity}"
            raise failed("too-long", what, "prompt", "shorten it")
        if why := function(self._address, (_i32 * count)(*tokens), count, *arguments):
            raise _refused(why, self.decoder.description)
        self.length += count


def usable_threads() -> int:
    """One for each core that this process may use, up to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


def decodable(tensors: Tensors, described: Mapping[str, Any], where: str) -> Description:
    """The checked description of a model. Raises `NotDecodableError`, with the reason, if it cannot be decoded."""
    if reason := described.get("unsupported"):
        raise NotDecodableError(str(reason))
    description = Description.read(described, where)
    _require_decodable(tensors, description)
    return description


def _require_decodable(tensors: Tensors, description: Description) -> None:
    """Raises `NotDecodableError` for formats that only the torch path has, and `ProblemError` for wrong shapes."""
    matrices, rows = dict(description.matrices()), dict(description.rows())
    for name, shape in itertools.chain(matrices.items(), description.vectors(), rows.items()):
        found = tensors.tensor(name)
        if tuple(found.shape) != shape:
            what = f"'{name}' has shape {list(found.shape)}, but its description says {list(shape)}"
            raise ProblemError(Problem("bad-artifact", what, "", "export the run again"))
        coding = None if found.format in VALUES else format_of(found.format).coding
        if name in matrices and coding != "base3":
            raise NotDecodableError(f"'{name}' is {found.format}, and the decoder multiplies ternary matrices")
        if name in rows and coding == "base3":
            reads = "numbers of 32 and 16 bits, int8 and int4"
            raise NotDecodableError(f"'{name}' is {found.format}, and the decoder reads it as {reads}")


def _free_text(address: int, decoder: Decoder) -> None:
    native.library().penstock_text_free(address)


def _not_built(why: int, matrix: str) -> Exception:
    if why == 3:
        what = f"'{matrix}' has a code above 242, or a scale that is not a normal positive number of fp16"
        return ProblemError(Problem("bad-weights", what, "", "export the run again"))
    return MemoryError("no memory or threads for the decoder") if why == 2 else AssertionError(f"sizes of {matrix}")


def _refused(why: int, description: Description) -> Exception:
    if why == 5:
        what = f"a token outside the vocabulary of {description.vocabulary}"
        return ProblemError(Problem("bad-value", what, "tokens", "use the model's own tokenizer"))
    if why == 6:
        what, fix = "the model computed logits that are NaN or infinite", "use a checkpoint from before it diverged"
        return failed("not-finite", what, "", fix)
    return MemoryError("no memory to draw a token") if why == 2 else AssertionError(f"status {why}")
