"""Signatures are datasketch's, by numpy and by every kernel that this machine can run."""

from __future__ import annotations

import hashlib
from typing import get_args

import numpy as np
import pytest
import xxhash
from datasketch import MinHash

from penstock.data_prep.cleaning.shingles import Shingling
from penstock.data_prep.cleaning.signatures import Hash, Scheme, Signer
from penstock.hooks.problems import ProblemError

TEXTS = [
    "",
    " \n",
    "one",
    "One two; three, four",
    "The gate is open. Zwölf Turbinen laufen!",
    "The mill stands still; 水 is what it waits for. ΣΊΣΥΦΟΣ ΑΣ İstanbul J\u030c e\u0301 \u1100\u1161",
    "long " + "word" * 400 + " and more text than one block of the hash holds",
    " ".join(f"word{number * number % 97}" for number in range(700)),
]


def oracle(signer: Signer, text: str) -> np.ndarray:
    hashes = {
        ("xxh32", "affine32"): xxhash.xxh32_intdigest,
        ("xxh32", "affine64"): xxhash.xxh32_intdigest,
        ("xxh32", "legacy"): xxhash.xxh32_intdigest,
    }
    of = hashes.get((signer.hash, signer.scheme))
    minhash = MinHash(signer.permutations, signer.seed, scheme=signer.scheme, hashfunc=of)
    minhash.update_batch(signer.shingles(text))
    return minhash.hashvalues


@pytest.mark.parametrize("scheme", get_args(Scheme))
@pytest.mark.parametrize("hash", get_args(Hash))
@pytest.mark.parametrize("shingle", [Shingling("word", 5), Shingling("character", 3)])
def test_signatures_are_those_of_datasketch(scheme: Scheme, hash: Hash, shingle: Shingling) -> None:
    signer = Signer(37, 5, scheme, hash, shingle)
    signatures = signer.sign(TEXTS)
    expected = np.array([oracle(signer, text) for text in TEXTS])
    assert signatures.dtype == expected.dtype
    np.testing.assert_array_equal(signatures, expected)
