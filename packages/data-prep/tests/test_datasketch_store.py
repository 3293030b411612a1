"""Laws of reading datasketch's LSH: its documents have the keys that signing their texts gives."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH

from penstock.data_prep.cleaning.datasketch_store import keys_of_lsh
from penstock.data_prep.cleaning.near import NearDuplicates
from penstock.data_prep.cleaning.signatures import Scheme
from penstock.hooks.contracts import Document
from penstock.hooks.problems import ProblemError

TEXTS = {f"key {number}": " ".join(f"w{number + word}" for word in range(20)) for number in range(12)}
KNOWN = ("key 3", TEXTS["key 3"])


def lsh_of(
    near: NearDuplicates, params: tuple[int, int] = (14, 9), hashfunc: Callable[[bytes], bytes] | None = None
) -> MinHashLSH:
    index = MinHashLSH(num_perm=128, params=params, hashfunc=hashfunc)
    for key, text in TEXTS.items():
        signer = near.signer
        signature = MinHash(128, seed=signer.seed, scheme=signer.scheme)
        signature.update_batch(signer.shingles(text))
        index.insert(key, signature)
    return index


@pytest.mark.parametrize("scheme", ["affine32", "affine64", "legacy"])
def test_keys_are_those_of_the_texts(scheme: Scheme) -> None:
    near = NearDuplicates(scheme=scheme, hash="sha1", seed=7)
    names, keys = keys_of_lsh(pickle.loads(pickle.dumps(lsh_of(near))), near, KNOWN)
    assert names == list(TEXTS)
    assert np.array_equal(keys, near.sketch([Document(text, key) for key, text in TEXTS.items()]))


def test_what_cannot_be_read_is_refused() -> None:
    near = NearDuplicates(hash="sha1")
    with pytest.raises(ProblemError, match="its signature of 'key 3' is another one"):
        keys_of_lsh(lsh_of(near), NearDuplicates(hash="sha1", seed=2), KNOWN)
    with pytest.raises(ProblemError, match="its signature of 'key 3' is another one"):
        keys_of_lsh(lsh_of(near), NearDuplicates(hash="sha1", scheme="legacy"), KNOWN)
    with pytest.raises(ProblemError, match="no document 'key 99'"):
        keys_of_lsh(lsh_of(near), near, ("key 99", ""))
    with pytest.raises(ProblemError, match="stores 100 values of a signature, and 112 are needed"):
        keys_of_lsh(lsh_of(near, params=(10, 10)), near, KNOWN)
    with pytest.raises(ProblemError, match="hashes of its bands"):
        keys_of_lsh(lsh_of(near, hashfunc=lambda data: data[:8]), near, KNOWN)
