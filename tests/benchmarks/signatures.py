"""MinHash signatures of texts: five-word shingles, 128 permutations, one core, beside datasketch and Rensa.

The texts are `web_text` of `PENSTOCK_DATA`: English pages, program code and Wikipedia in several languages. Our times
hold normalisation. The peers' do not: they get words, normalised, cut and encoded, and make the shingles as bytes. Only
the numpy path is set against datasketch with normalisation on both sides. Rensa's is the full signature; its documents
of more than 96 shingles are sampled by another function, which is not MinHash. A peer that is not installed is said:

    PENSTOCK_DATA=FOLDER uv run --with datasketch==2.0.0 --with rensa==0.5.0 python tests/benchmarks/signatures.py
"""

from __future__ import annotations

import importlib
import json
import lzma
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from importlib import util
from pathlib import Path
from typing import Any

import click
import numpy as np
import xxhash
from measure import Bar, finish, interleaved, json_option, rounds

from penstock.data_prep.cleaning.signatures import NUMPY, Hash, Signer, kernels

PERMUTATIONS, WORDS, SEED = 128, 5, 1
DOCUMENT = 2_000  # characters; lines are joined until a document has as many
PEERS = ("datasketch", "rensa")


class Corpus:
    """Documents, and the same for peers: the normalised words of each."""

    def __init__(self, folder: Path, megabytes: float) -> None:
        files = sorted((folder / "web_text").glob("*.txt.xz"))
        whole = "".join(lzma.decompress(file.read_bytes()).decode() for file in files)
        self.texts: list[str] = []
        document, wanted = "", megabytes * 1e6
        for line in whole.splitlines(keepends=True):
            document += line
            if len(document) >= DOCUMENT:
                self.texts.append(document)
                wanted -= len(document)
                document = ""
            if wanted <= 0:
                break
        self.megabytes = sum(len(text.encode()) for text in self.texts) / 1e6

    @cached_property
    def words(self) -> list[list[bytes]]:
        normaliser = Signer().normaliser
        return [normaliser(text).encode().split() for text in self.texts]

    def shingles(self) -> list[list[bytes]]:
        """As a user of a peer writes it: `Shingling` encodes each shingle anew."""
        last = WORDS - 1
        return [
            [b" ".join(words[start : start + WORDS]) for start in range(max(len(words) - last, 1))]
            for words in self.words
        ]


def signer(hash: Hash, kernel: str | None = None) -> Signer:
    return Signer(PERMUTATIONS, SEED, hash=hash, kernel=kernel)


def by_datasketch(corpus: Corpus, hash: Hash) -> np.ndarray[Any, Any]:
    from datasketch import MinHash

    hashing = xxhash.xxh32_intdigest if hash == "xxh32" else None
    settings = {"num_perm": PERMUTATIONS, "seed": SEED, "hashfunc": hashing, "scheme": "affine32"}
    return np.array([sketch.hashvalues for sketch in MinHash.bulk(corpus.shingles(), **settings)])


def by_rensa(corpus: Corpus) -> object:
    return importlib.import_module("rensa").RMinHash.digest_matrix_from_token_byte_sets(
        corpus.shingles(), PERMUTATIONS, SEED
    )


def cases(corpus: Corpus) -> dict[str, Callable[[], Any]]:
    """What is timed. Each returns signatures, but for the normaliser."""
    found: dict[str, Callable[[], Any]] = {}
    for kernel in kernels():
        for hash in ("xxh32", "sha1"):
            signing = signer(hash, kernel)
            found[f"{kernel} {hash}"] = lambda signing=signing: signing.sign(corpus.texts)
    found["normaliser of numpy"] = lambda: [signer("sha1").normaliser(text) for text in corpus.texts]
    if util.find_spec("datasketch"):
        for hash in ("xxh32", "sha1"):
            found[f"datasketch {hash}"] = lambda hash=hash: by_datasketch(corpus, hash)
    if util.find_spec("rensa"):
        found["rensa"] = lambda: by_rensa(corpus)
    return found


def peak_growth(name: str, data: Path, megabytes: float) -> float:
    """MiB by which one run of a case raises the peak of a process of its own."""
    command = [sys.executable, __file__, "--peak-of", name, "--data", str(data), "--megabytes", str(megabytes)]
    return float(json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout))


def grown(case: Callable[[], Any]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = case()
    del kept
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def bars(seconds: dict[str, float]) -> list[Bar]:
    """Ratios of processor seconds to those of the fastest kernel, and of numpy."""
    ours = kernels()[0]
    found: list[Bar] = []

    def ratio(name: str, peer: float, of: str, limit: float) -> None:
        found.append(Bar(name, peer / seconds[of], limit))

    if "datasketch sha1" in seconds:
        for hash in ("xxh32", "sha1"):
            peer = seconds[f"datasketch {hash}"] + seconds["normaliser of numpy"]
            ratio(f"numpy: datasketch's time over ours, {hash}, both with normalisation", peer, f"{NUMPY} {hash}", 1.0)
    if ours == NUMPY:
        return found
    if "datasketch sha1" in seconds:
        limits: dict[Hash, float] = {"xxh32": 6.0, "sha1": 4.0 if "+sha" in ours else 2.0}
        for hash, limit in limits.items():
            ratio(f"datasketch's time over ours, {hash}", seconds[f"datasketch {hash}"], f"{ours} {hash}", limit)
    if "rensa" in seconds:
        ratio("Rensa's time over ours, xxh32", seconds["rensa"], f"{ours} xxh32", 3.0)
    return found


def differing(corpus: Corpus) -> int:
    """How many signatures differ from datasketch's, over both hashes and all kernels."""
    count = 0
    for hash in ("xxh32", "sha1"):
        expected = by_datasketch(corpus, hash)
        for kernel in kernels():
            count += int((signer(hash, kernel).sign(corpus.texts) != expected).any(axis=1).sum())
    return count


@click.command(help=__doc__)
@click.option("--data", envvar="PENSTOCK_DATA", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--megabytes", default=5.0, show_default=True, help="Text to sign; there are 4.6 MB.")
@click.option("--peak-of", hidden=True)
@rounds(5)
@json_option
def main(data: Path, megabytes: float, peak_of: str | None, rounds: int, as_json: bool) -> None:
    os.environ["RAYON_NUM_THREADS"] = "1"  # read by Rensa when it is first used
    corpus = Corpus(data, megabytes)
    timed = cases(corpus)
    _ = corpus.words
    if peak_of is not None:
        click.echo(grown(timed[peak_of]))
        return
    missing = [peer for peer in PEERS if not util.find_spec(peer)]
    if missing:
        click.echo(f"not installed, so not compared: {', '.join(missing)}", err=True)
    seconds = interleaved(timed, rounds=rounds, clock=time.process_time)
    rows: list[dict[str, Any]] = []
    for name, taken in seconds.items():
        rows.append({"what": name, "processor s": taken, "MB/s": corpus.megabytes / taken})
        if name.split()[0] not in kernels()[1:-1]:  # the kernels differ in their instructions only
            rows[-1]["peak MiB"] = peak_growth(name, data, megabytes)
    checked = bars(seconds)
    if "datasketch" not in missing:
        checked.append(Bar("signatures that differ from datasketch's", differing(corpus), 0, at_least=False))
    facts = {"documents": len(corpus.texts), "MB": round(corpus.megabytes, 2), "not installed": missing}
    finish("signatures", rows, checked, as_json, **facts)


if __name__ == "__main__":
    main()
