"""Exact deduplication: the first document of each text is kept."""

from __future__ import annotations

from collections.abc import Iterator

import xxhash

from penstock.hooks.contracts import Document


class ExactDedup:
    """Drops every document whose text was seen before, by a 128-bit hash.

    The probability that any two texts of a corpus of 10**10 documents share a hash is 1.5e-19. `seen` and `dropped`
    count documents, `dropped_bytes` their UTF-8 bytes. The counts and the set of hashes last as long as the object.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.dropped = 0
        self.dropped_bytes = 0
        self._digests = _DigestSet()

    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in documents:
            data = document.text.encode("utf-8", "surrogatepass")
            self.seen += 1
            if self._digests.add(xxhash.xxh3_128_digest(data)):
                yield document
            else:
                self.dropped += 1
                self.dropped_bytes += len(data)


class _DigestSet:
    """A set of 16-byte digests in one byte array, 21 to 43 bytes each; a Python set of `bytes` takes about 80.

    Open addressing with linear probing. A slot of zeros is free, so a text whose digest is zero would be taken for a
    duplicate; no such text is known.
    """

    _WIDTH = 16
    _FREE = bytes(_WIDTH)

    def __init__(self) -> None:
        self._slots = 1024
        self._count = 0
        self._table = bytearray(self._slots * self._WIDTH)

    def __len__(self) -> int:
        return self._count

    def add(self, digest: bytes) -> bool:
        """True if the digest is new."""
        if 4 * self._count >= 3 * self._slots:
            self._grow()
        at = self._find(digest)
        if self._table[at : at + self._WIDTH] == digest:
            return False
        self._table[at : at + self._WIDTH] = digest
        self._count += 1
        return True

    def _find(self, digest: bytes) -> int:
        """Where the digest is, or the free slot where it belongs."""
        table, width, size = self._table, self._WIDTH, len(self._table)
        at = int.from_bytes(digest[:8], "little") % self._slots * width
        while (slot := table[at : at + width]) != digest and slot != self._FREE:
            at = (at + width) % size
        return at

    def _grow(self) -> None:
        old = self._table
        self._slots *= 2
        self._table = bytearray(self._slots * self._WIDTH)
        for start in range(0, len(old), self._WIDTH):
            digest = bytes(old[start : start + self._WIDTH])
            if digest != self._FREE:
                at = self._find(digest)
                self._table[at : at + self._WIDTH] = digest
