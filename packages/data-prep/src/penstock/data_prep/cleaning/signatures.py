"""MinHash signatures of texts, bit for bit those of datasketch: normalise, cut into shingles, hash, permute, take minima.

The share of equal places in two signatures estimates the Jaccard similarity of the sets of shingles. The compiled
kernel and numpy give equal bits; numpy is some 20 times slower.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.data_prep.cleaning.normalise import Normaliser, require_choice
from penstock.data_prep.cleaning.shingles import Shingling
from penstock.hooks.problems import Problem, ProblemError

Scheme = Literal["affine32", "affine64", "legacy"]
Hash = Literal["sha1", "xxh32"]
Signatures = NDArray[np.uint32] | NDArray[np.uint64]
_Unsigned = NDArray[Any]  # of the scheme's width

_MERSENNE = np.uint64(2**61 - 1)
_BLOCK = 256  # shingles permuted at once: with 128 permutations 128 KiB, which stays in the second-level cache


class Signer:
    """Texts to signatures [N, permutations], each place the least value of one permutation over all shingles.

    `scheme` is datasketch's: `affine32` (its default since 2.0) is `a * fmix32(hash) + b` modulo 2**32 with odd `a`,
    `affine64` the same of 64 bits for sets beyond 10**8 shingles, `legacy` that of datasketch 1. `sha1` is the hash that
    datasketch takes by default; xxh32 is 7 times faster and estimates as well. `seed` draws `a` and `b`.

    Raises `ProblemError` for an unknown scheme or hash, and for fewer than 1 permutation.
    """

    def __init__(
        self,
        permutations: int = 128,
        seed: int = 1,
        scheme: Scheme = "affine32",
        hash: Hash = "xxh32",
        shingle: Shingling = Shingling(),
        normaliser: Normaliser = Normaliser(),
    ) -> None:
        require_choice("scheme", scheme, ("affine32", "affine64", "legacy"))
        require_choice("hash", hash, ("sha1", "xxh32"))
        if permutations < 1:
            raise ProblemError(Problem("invalid-value", f"{permutations} permutations", "", "at least 1"))
        self.permutations, self.seed, self.scheme, self.hash = permutations, seed, scheme, hash
        self.shingle, self.normaliser = shingle, normaliser
        self.dtype = np.dtype(np.uint32 if scheme == "affine32" else np.uint64)
        self.empty = 2**64 - 1 if scheme == "affine64" else 2**32 - 1
        """Every place of the signature of a text without shingles."""
        self._factors, self._offsets = _coefficients(scheme, permutations, seed)

    def describe(self) -> dict[str, Any]:
        """Everything that decides the bits, as JSON holds it: signatures of different descriptions are never compared."""
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
        """Signatures [N, permutations] of N texts: uint32 of `affine32`, else uint64, as datasketch stores them."""
        signatures = np.full((len(texts), self.permutations), self.empty, self.dtype)
        for signature, text in zip(signatures, texts, strict=True):
            self._permute(self._hashes(text), signature)
        return signatures

    def _hashes(self, text: str) -> _Unsigned:
        """Hashes [shingles] of a text, of the scheme's width."""
        shingles = self.shingles(text)
        if self.hash == "xxh32":
            return np.fromiter(map(xxhash.xxh32_intdigest, shingles), self.dtype, len(shingles))
        width = 8 if self.scheme == "affine64" else 4
        starts = b"".join([hashlib.sha1(shingle, usedforsecurity=False).digest()[:width] for shingle in shingles])
        return np.frombuffer(starts, f"<u{width}").astype(self.dtype)

    def _permute(self, hashes: _Unsigned, signature: _Unsigned) -> None:
        """Takes the minima over all hashes into `signature`."""
        if self.scheme != "legacy":
            hashes = _mixed(hashes)
        for start in range(0, len(hashes), _BLOCK):
            values = hashes[start : start + _BLOCK, None] * self._factors
            values += self._offsets
            if self.scheme == "legacy":
                values %= _MERSENNE
                values &= self.dtype.type(self.empty)
            np.minimum(signature, values.min(axis=0), out=signature)


def _coefficients(scheme: Scheme, permutations: int, seed: int) -> tuple[_Unsigned, _Unsigned]:
    """Factors and offsets [permutations] as datasketch draws them, from numpy's generator of before 1.17."""
    draw = np.random.RandomState(seed).randint
    if scheme == "legacy":
        prime = int(_MERSENNE)
        pairs = [(draw(1, prime, dtype=np.uint64), draw(0, prime, dtype=np.uint64)) for _ in range(permutations)]
        factors, offsets = np.array(pairs, np.uint64).T.copy()
        return factors, offsets
    bits, dtype = (32, np.uint32) if scheme == "affine32" else (64, np.uint64)
    factors = draw(0, 2 ** (bits - 1), permutations, dtype=dtype) * dtype(2) + dtype(1)
    return factors, draw(0, 2**bits, permutations, dtype=dtype)


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
