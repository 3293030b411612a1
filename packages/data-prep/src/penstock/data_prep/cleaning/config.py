"""Settings of the stages of cleaning; the fields are the keyword arguments of their targets."""

from __future__ import annotations

from typing import Literal

from pydantic import ByteSize, Field

from penstock.data_prep.cleaning.banding import RECALL
from penstock.data_prep.cleaning.normalise import Normaliser
from penstock.hooks.config import Schema


class NearDuplicatesConfig(Schema):
    """Near duplicates: one document of each cluster stays."""

    threshold: float = Field(default=0.8, gt=0, le=1)
    """Least Jaccard similarity of the sets of shingles of near duplicates. 0.8 as in SlimPajama and in most
    deduplication of web text."""
    recall: float = Field(default=RECALL, gt=0, lt=1)
    """Least probability of finding a pair at the threshold; pairs above are found more often. It decides the bands."""
    keep: Literal["earliest", "longest", "best"] = "earliest"
    """Which document of a cluster stays: the first of the corpus, the one with most characters, or the one with the
    largest share of its characters in lines that end a sentence."""
    permutations: int = Field(default=128, ge=1)
    """Values of a signature."""
    seed: int = Field(default=1, ge=0, lt=2**32)
    """Of the permutations."""
    scheme: Literal["affine32", "affine64", "legacy"] = "affine32"
    """datasketch's scheme of permutations."""
    hash: Literal["xxh32", "sha1"] = "xxh32"
    """Of shingles. sha1 is datasketch's default, and slower."""
    unit: Literal["word", "character"] = "word"
    """What a shingle is made of; `character` for scripts that write no spaces, such as Chinese and Thai."""
    size: int = Field(default=5, ge=1)
    """Words or characters of a shingle."""
    normaliser: Normaliser | None = None
    """What near duplicates may differ in; by default case, punctuation, whitespace and Unicode's form."""
    max_ram: ByteSize = Field(default=ByteSize(512_000_000), gt=0)
    """Memory of comparing, such as `512MB`; what does not fit is sorted on disk."""
    scratch: str | None = None
    """Folder for what is sorted on disk: 12 bytes for each band of a document. By default the system's folder of
    temporary files."""
