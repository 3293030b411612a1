"""Band keys of the documents in a `MinHashLSH` of datasketch, so that they need not be signed again."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from penstock.data_prep.cleaning.near import NearDuplicates
from penstock.data_prep.cleaning.runs import Keys
from penstock.hooks.problems import Problem, ProblemError


def keys_of_lsh(lsh: Any, near: NearDuplicates, known: tuple[Hashable, str]) -> tuple[list[Hashable], Keys]:
    """The keys of the documents of `lsh`, and what `near.sketch` would make of their texts: uint64 [N, bands].

    An LSH stores the values of its bands, but neither seed nor hash nor shingles: `known` is the key and the text of
    one of its documents, whose signature tells whether they are those of `near`. Its keys and texts are read from
    where it stores them; unpickle it only if you trust its source, as unpickling runs code.

    Raises `ProblemError` for an LSH of other signatures, of fewer values than `near` needs, or that stores hashes of
    its bands only.
    """
    needed = near.banding.values
    if lsh.hashfunc is not None:
        raise _refused("it stores hashes of its bands, not their values")
    if lsh.b * lsh.r < needed:
        raise _refused(f"it stores {lsh.b * lsh.r} values of a signature, and {needed} are needed")
    key, text = known
    if key not in lsh.keys:
        raise _refused(f"it has no document {key!r}")
    # datasketch swaps the bytes of its values, which makes them big-endian on all machines that it is used on.
    kind = near.signer.dtype.newbyteorder(">")
    signed = near.signer.sign([text])[0, :needed]
    if b"".join(lsh.keys.get(key))[: signed.nbytes] != signed.astype(kind).tobytes():
        raise _refused(f"its signature of {key!r} is another one")
    names = list(lsh.keys.keys())
    rows = [np.frombuffer(b"".join(lsh.keys.get(name)), kind)[:needed] for name in names]
    return names, near.keys(np.array(rows, near.signer.dtype).reshape(-1, needed))


def _refused(what: str) -> ProblemError:
    fix = "use the settings that it was made with, or sign the texts"
    return ProblemError(Problem("other-index", what, "the LSH of datasketch", fix))
