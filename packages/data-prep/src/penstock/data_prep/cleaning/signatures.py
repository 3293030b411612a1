"""MinHash signatures of texts, with the bits of datasketch: normalise, cut into shingles, hash, permute, take minima.

The share of equal places in two signatures estimates the Jaccard similarity of the sets of shingles. The compiled
kernel and numpy give equal bits; numpy is slower.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.data_prep.cleaning import native
from penstock.data_prep.cleaning.characters import images
from penstock.data_prep.cleaning.normalise import Normaliser, require_choice
from penstock.data_prep.cleaning.shingles import Shingling
from penstock.hooks.problems import Problem, ProblemError

Scheme = Literal["affine32", "affine64", "legacy"]
Hash = Literal["sha1", "xxh32"]
Signatures = NDArray[np.uint32] | NDArray[np.uint64]
_Unsigned = NDArray[Any]  # of the scheme's width

NUMPY = "numpy"
_MERSENNE = np.uint64(2**61 - 1)
_TEXTS = 256  # encoded at once for the kernel
_BLOCK = 256  # shingles permuted at once: with 128 permutations 128 KiB, which stays in the second-level cache


@dataclass(frozen=True)
class Signer:
    """Texts to signatures [N, permutations]: each place holds the least value of one permutation over all shingles.

    Raises `ProblemError` for an unknown scheme, hash or kernel, fewer than 1 permutation, and a seed beyond 32 bits.
    """

    permutations: int = 128
    seed: int = 1
    """Draws the permutations."""
    scheme: Scheme = "affine32"
    """datasketch's: `affine32`, its default since 2.0, is `a * mixed(hash) + b` modulo 2**32 with odd `a`; `affine64`
    is the same of 64 bits, for texts of more than 10**8 shingles; `legacy` is that of datasketch 1."""
    hash: Hash = "xxh32"
    """`sha1` is datasketch's default; xxh32 estimates as well at a fraction of the time."""
    shingle: Shingling = field(default_factory=Shingling)
    normaliser: Normaliser = field(default_factory=Normaliser)
    kernel: str | None = None
    """One of `kernels()`, which all give the same bits; None is the fastest."""

    def __post_init__(self) -> None:
        require_choice("scheme", self.scheme, tuple(native.SCHEMES))
        require_choice("hash", self.hash, tuple(native.HASHES))
        if self.kernel is not None:
            require_choice("kernel", self.kernel, kernels())
        if self.permutations < 1:
            raise ProblemError(Problem("invalid-value", f"{self.permutations} permutations", "", "at least 1"))
        if not 0 <= self.seed < 2**32:
            raise ProblemError(Problem("invalid-value", f"the seed is {self.seed}", "", "0 to 4294967295"))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the signatures: uint32 of `affine32`, else uint64, as in datasketch."""
        return np.dtype(np.uint32 if self.scheme == "affine32" else np.uint64)

    @property
    def empty(self) -> int:
        """What stands in every place of the signature of a text without shingles."""
        return 2**64 - 1 if self.scheme == "affine64" else 2**32 - 1

    def __getstate__(self) -> dict[str, Any]:
        """Without what is computed on first use: addresses hold in one process only."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def describe(self) -> dict[str, Any]:
        """What decides the bits, as JSON holds it. Signatures of different descriptions are never compared."""
        return {
            "permutations": self.permutations,
            "seed": self.seed,
            "scheme": self.scheme,
            "hash": self.hash,
            "shingle": asdict(self.shingle),
            "normaliser": self.normaliser.version,
        }

    def shingles(self, text: str) -> list[bytes]:
        """The shingles of a text, normalised; repeated ones too."""
        return self.shingle(self.normaliser(text))

    def sign(self, texts: Sequence[str]) -> Signatures:
        """Signatures [N, permutations] of N texts."""
        signatures = np.full((len(texts), self.permutations), self.empty, self.dtype)
        name = self.kernel or kernels()[0]
        if name == NUMPY:
            for signature, text in zip(signatures, texts, strict=True):
                self._permute(self._hashes(text), signature)
        else:
            for start in range(0, len(texts), _TEXTS):
                part = slice(start, start + _TEXTS)
                self._sign_natively(native.kernels()[name], texts[part], signatures[part])
        return signatures

    def _sign_natively(self, kernel: int, texts: Sequence[str], signatures: Signatures) -> None:
        # The kernel normalises, but hands back texts with a character that depends on its neighbours.
        by_character, as_it_is = self._signing
        refused = native.sign(kernel, by_character, texts, signatures)
        if refused:
            normalised = [self.normaliser(texts[number]) for number in refused]
            if self.shingle.unit == "word":
                normalised = [" ".join(text.split()) for text in normalised]
            rows = np.empty((len(refused), self.permutations), self.dtype)
            native.sign(kernel, as_it_is, normalised, rows)
            signatures[refused] = rows

    @cached_property
    def _signing(self) -> tuple[native.Signing, native.Signing]:
        """What the kernel is told: of texts that it normalises, and of texts that come normalised."""
        words = self.shingle.unit == "word"
        joined = words or self.normaliser.whitespace == "single"
        characters = images(self.normaliser, joined)  # kept alive by its cache
        factors, offsets = (coefficients.ctypes.data for coefficients in self._padded)
        rest = (
            self.permutations,
            self.shingle.size,
            native.SCHEMES[self.scheme],
            native.HASHES[self.hash],
            words,
            joined,
        )
        by_character = native.Signing(characters.ctypes.data, factors, offsets, *rest)
        return by_character, native.Signing(None, factors, offsets, *rest)

    @cached_property
    def _padded(self) -> tuple[_Unsigned, _Unsigned]:
        padding = (0, -self.permutations % native.BLOCK)
        factors, offsets = (np.pad(coefficients, padding) for coefficients in self._coefficients)
        return factors, offsets

    def _hashes(self, text: str) -> _Unsigned:
        """Hashes [shingles] of a text, of the scheme's width."""
        shingles = self.shingles(text)
        if self.hash == "xxh32":
            return np.fromiter(map(xxhash.xxh32_intdigest, shingles), self.dtype, len(shingles))
        width = 8 if self.scheme == "affine64" else 4
        digests = b"".join([hashlib.sha1(shingle, usedforsecurity=False).digest() for shingle in shingles])
        starts = np.frombuffer(digests, np.uint8).reshape(-1, 20)[:, :width].copy()
        return starts.view(f"<u{width}").astype(self.dtype).ravel()

    def _permute(self, hashes: _Unsigned, signature: _Unsigned) -> None:
        """Takes the minima over all hashes into `signature`."""
        factors, offsets = self._coefficients
        if self.scheme != "legacy":
            hashes = _mixed(hashes)
        for start in range(0, len(hashes), _BLOCK):
            values = hashes[start : start + _BLOCK, None] * factors
            values += offsets
            if self.scheme == "legacy":
                values %= _MERSENNE
                values &= self.dtype.type(self.empty)
            np.minimum(signature, values.min(axis=0), out=signature)

    @cached_property
    def _coefficients(self) -> tuple[_Unsigned, _Unsigned]:
        """Factors and offsets [permutations], drawn as datasketch draws them: by numpy's generator of before 1.17."""
        draw = np.random.RandomState(self.seed).randint
        if self.scheme == "legacy":
            prime = int(_MERSENNE)
            draws = [draw(least, prime, dtype=np.uint64) for _ in range(self.permutations) for least in (1, 0)]
            pairs = np.array(draws, np.uint64).reshape(-1, 2)
            return pairs[:, 0].copy(), pairs[:, 1].copy()
        bits, of = self.dtype.itemsize * 8, self.dtype.type
        factors = draw(0, 2 ** (bits - 1), self.permutations, dtype=of) * of(2) + of(1)
        return factors, draw(0, 2**bits, self.permutations, dtype=of)


def kernels() -> tuple[str, ...]:
    """What this machine can sign with, the fastest first. The last is numpy; the others are code of the library for one
    instruction set each."""
    return (*native.kernels(), NUMPY)


def _mixed(hashes: _Unsigned) -> _Unsigned:
    """The finalizer of MurmurHash3, a bijection: hashes with little in common in their low bits come out far apart."""
    if hashes.dtype == np.uint32:
        first, factor, second, other, last = (16, 0x85EBCA6B, 13, 0xC2B2AE35, 16)
    else:
        first, factor, second, other, last = (33, 0xFF51AFD7ED558CCD, 33, 0xC4CEB9FE1A85EC53, 33)
    kind = hashes.dtype.type
    hashes = (hashes ^ (hashes >> kind(first))) * kind(factor)
    hashes = (hashes ^ (hashes >> kind(second))) * kind(other)
    return hashes ^ (hashes >> kind(last))
