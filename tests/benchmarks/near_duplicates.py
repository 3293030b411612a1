"""Near duplicates: how many are found, how many are right, and within how much memory.

    PENSTOCK_DATA=FOLDER uv run --with datasketch==2.0.0 --with rensa==0.5.0 python tests/benchmarks/near_duplicates.py

Every method gets shingles of five normalised words and 128 permutations with the hash that it takes by default, except
where a row says otherwise. A peer that is not installed is said.

- `edited`: articles of `PENSTOCK_DATA`, each with a copy in which words are replaced, inserted and deleted, so that
  similarities spread evenly from 0.5 to 1. Recall is the share of pairs that are found, by true similarity; precision
  is the share of what is found that is at least 0.8 similar. Rensa's functions for whole corpora say which documents
  have a duplicate; a pair counts as found if both do, and precision is that of documents.
- `planted`: the pairs of `dedup/minhash_articles`.
- `gold`: records of `dedup/bib_dedupe` as title, authors and journal, in character 4-grams; the F1 of pairs of a group,
  at each threshold. Pairs of datasketch are those whose estimated similarity is at the threshold; groups are connected
  pairs. No method was made for this, so nothing is tuned and nothing is a bar.
- `memory`: short generated documents, a fifth of them edited copies of the one before, in a process of their own. The
  peak is that of the whole process, the time that of signing and comparing, within `--max-ram` and in memory.
"""

from __future__ import annotations

import csv
import importlib
import lzma
import multiprocessing
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import util
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
import xxhash
from measure import Bar, Row, finish, json_option

from penstock.data_prep.cleaning.banding import Banding
from penstock.data_prep.cleaning.near import NearDuplicates
from penstock.hooks.contracts import Document

THRESHOLD, PERMUTATIONS, SEED = 0.8, 128, 1
BINS = ((0.8, 0.9), (0.9, 1.01))
PEERS = ("datasketch", "rensa")
SHARD = 20_000
COPY_EVERY = 5
WORDS = 60_000  # of the language that generated documents are in

Pairs = set[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Found:
    """What a method finds: pairs, or documents that have a duplicate."""

    pairs: Pairs
    documents: set[int] | None = None

    def has(self, pair: tuple[int, int]) -> bool:
        return pair in self.pairs if self.documents is None else self.documents.issuperset(pair)

    def precision(self, near: Pairs) -> float:
        """The share of what was found that is near."""
        if self.documents is None:
            return len(self.pairs & near) / max(1, len(self.pairs))
        right = {place for pair in near for place in pair}
        return len(self.documents & right) / max(1, len(self.documents))


Method = Callable[[Sequence[str]], Found]


# ------------------------------------------------------------------------------------------------------- methods


def ours(texts: Sequence[str], **settings: Any) -> Found:
    """Each document that goes, with the one that stays."""
    near = NearDuplicates(permutations=PERMUTATIONS, **settings)
    documents = [Document(text, str(place)) for place, text in enumerate(texts)]
    decided = near.compare([near.sketch(documents)], documents.__getitem__)
    return Found({(int(decision.repeats or 0), place) for place, decision in decided})


def datasketch(
    texts: Sequence[str], *, near: NearDuplicates, bands: Banding | None = None, estimate: bool = False, **hashed: Any
) -> Found:
    """Its candidates, of a banding that is given or of its own for the threshold; with `estimate` those whose
    signatures are as similar as the threshold."""
    from datasketch import MinHash, MinHashLSH

    shingles = (near.signer.shingles(text) for text in texts)
    hashes = list(MinHash.generator(shingles, num_perm=PERMUTATIONS, seed=SEED, **hashed))
    params: dict[str, Any] = {"params": (bands.bands, bands.rows)} if bands else {"threshold": near.threshold}
    index = MinHashLSH(num_perm=PERMUTATIONS, **params)
    pairs: Pairs = set()
    for place, mine in enumerate(hashes):
        others: list[Any] = index.query(mine)
        pairs |= {(other, place) for other in others if not estimate or mine.jaccard(hashes[other]) >= near.threshold}
        index.insert(place, mine)
    return Found(pairs)


def rensa_full(texts: Sequence[str], *, near: NearDuplicates) -> Found:
    """Its signatures, 16 x 8."""
    rensa = importlib.import_module("rensa")
    matrix = rensa.RMinHash.digest_matrix_from_token_sets(list(map(near.signer.shingles, texts)), PERMUTATIONS, SEED)
    index = rensa.RMinHashLSH(near.threshold, PERMUTATIONS, 16)
    return _flagged(index.query_duplicate_flags_matrix_one_shot(matrix))


def rensa_sampled(texts: Sequence[str], *, near: NearDuplicates) -> Found:
    """What its own benchmark runs: a document of more than 96 shingles gives 15 of them, 8 bands."""
    rensa = importlib.import_module("rensa")
    sets = list(map(near.signer.shingles, texts))
    matrix = rensa.RMinHash.digest_matrix_from_token_sets_rho(sets, PERMUTATIONS, SEED, probes=4)
    index = rensa.RMinHashLSH(near.threshold, PERMUTATIONS, 8)
    return _flagged(index.query_duplicate_flags_matrix_one_shot(matrix))


def _flagged(flags: Iterable[bool]) -> Found:
    return Found(set(), {place for place, flag in enumerate(flags) if flag})


def methods(near: NearDuplicates, missing: Sequence[str], **settings: Any) -> dict[str, Method]:
    """By the name of their row."""
    found: dict[str, Method] = {f"penstock {near.banding}": partial(ours, threshold=near.threshold, **settings)}
    if "datasketch" not in missing:
        xxh32 = {"hashfunc": xxhash.xxh32_intdigest, "scheme": "affine32"}
        found[f"datasketch {near.banding}"] = partial(datasketch, near=near, bands=near.banding)
        found[f"datasketch {near.banding}, xxh32"] = partial(datasketch, near=near, bands=near.banding, **xxh32)
        found[f"datasketch {near.banding}, estimate"] = partial(
            datasketch, near=near, bands=near.banding, estimate=True
        )
        found["datasketch, its banding"] = partial(datasketch, near=near)
        found["datasketch, its banding, estimate"] = partial(datasketch, near=near, estimate=True)
    if "rensa" not in missing:
        found["rensa, full signatures 16 x 8"] = partial(rensa_full, near=near)
        found["rensa, sampled"] = partial(rensa_sampled, near=near)
    return found


# ------------------------------------------------------------------------------------------------------- quality


def edited_rows(articles: Sequence[str], missing: Sequence[str]) -> tuple[list[Row], list[Bar]]:
    near, draw = NearDuplicates(permutations=PERMUTATIONS), random.Random(0)
    texts = [text for article in articles for text in (article, edited(article, draw.uniform(0.5, 1), draw))]
    sets = [set(near.signer.shingles(text)) for text in texts]
    similarity = {
        (at, at + 1): len(sets[at] & sets[at + 1]) / len(sets[at] | sets[at + 1]) for at in range(0, len(texts), 2)
    }
    rows: list[Row] = []
    for name, method in methods(near, missing).items():
        begun = time.process_time()
        found = method(texts)
        row: dict[str, Any] = {"part": "edited", "method": name, "processor s": time.process_time() - begun}
        others = {pair for pair in found.pairs if pair not in similarity}
        similar = {pair: len(sets[pair[0]] & sets[pair[1]]) / len(sets[pair[0]] | sets[pair[1]]) for pair in others}
        near_pairs = {pair for pair, value in (similarity | similar).items() if value >= near.threshold}
        for low, high in BINS:
            wanted = [pair for pair, value in similarity.items() if low <= value < high]
            row[f"recall {low}"] = sum(map(found.has, wanted)) / max(1, len(wanted))
            row[f"pairs {low}"] = len(wanted)
        rows.append({**row, "precision": found.precision(near_pairs)})
    mine = rows[0]
    bars = [
        Bar("recall at 0.9 and above", mine["recall 0.9"], 0.99),
        Bar("recall at 0.8 to 0.9", mine["recall 0.8"], 0.95),
        Bar("precision after verification", mine["precision"], 0.999),
    ]
    return rows, bars


def edited(text: str, similarity: float, draw: random.Random) -> str:
    """With so many words replaced, inserted or deleted that five-word shingles are about as similar."""
    words = text.split()
    for _ in range(round(len(words) * (1 - similarity) / (1 + similarity) / 5)):
        at = draw.randrange(len(words))
        words[at : at + draw.randrange(2)] = [draw.choice(words)] * draw.randrange(2)
    return " ".join(words)


def planted_rows(folder: Path, sizes: Sequence[int]) -> tuple[list[Row], list[Bar]]:
    rows: list[Row] = []
    for size in sizes:
        names, texts = zip(*articles_of(folder, size), strict=True)
        lines = (folder / f"articles_{size}.truth").read_text().splitlines()
        planted = {frozenset(line.split()) for line in lines}
        found = {frozenset((names[one], names[other])) for one, other in ours(texts).pairs}
        share = len(found & planted) / len(planted)
        rows.append({"part": "planted", "documents": size, "pairs": len(planted), "recall": share, "found": len(found)})
    return rows, [Bar("planted pairs that are found", min(row["recall"] for row in rows), 1)]


def without_copies(folder: Path, size: int) -> list[str]:
    """The texts of articles that no other one is planted to repeat."""
    copied = set((folder / f"articles_{size}.truth").read_text().split())
    return [text for name, text in articles_of(folder, size) if name not in copied]


def articles_of(folder: Path, size: int) -> list[tuple[str, str]]:
    """Names and texts."""
    lines = lzma.decompress((folder / f"articles_{size}.train.xz").read_bytes()).decode().splitlines()
    return [(name, text) for name, text in (line.split(" ", 1) for line in lines)]


def gold_rows(folder: Path, missing: Sequence[str], thresholds: Sequence[float]) -> list[Row]:
    rows: list[Row] = []
    for data in sorted(each for each in folder.iterdir() if each.is_dir()):
        text = lzma.decompress((data / "records_pre_merged.csv.xz").read_bytes()).decode()
        records = list(csv.DictReader(text.splitlines()))
        place = {record["ID"]: number for number, record in enumerate(records)}
        texts = [" ".join(record.get(name) or "" for name in ("title", "author", "journal")) for record in records]
        with (data / "merged_record_ids.csv").open(encoding="utf-8") as file:
            groups = [[place[name] for name in row["merged_ids"].split(";")] for row in csv.DictReader(file)]
        gold = {pair for group in groups for pair in combinations(sorted(group), 2)}
        for threshold in thresholds:
            near = NearDuplicates(permutations=PERMUTATIONS, threshold=threshold, unit="character", size=4)
            for name, method in methods(near, missing, unit="character", size=4).items():
                if "penstock" in name or "estimate" in name:  # rensa says documents, not pairs
                    found = closure(method(texts).pairs)
                    right = len(found & gold)
                    precision, recall = right / max(1, len(found)), right / len(gold)
                    f1 = 2 * right / (len(found) + len(gold))
                    row = {"part": "gold", "data": data.name, "threshold": threshold, "method": name}
                    rows.append({**row, "F1": f1, "precision": precision, "recall": recall})
    return rows


def closure(pairs: Pairs) -> Pairs:
    """All pairs of connected documents."""
    group: dict[int, set[int]] = {}
    for one, other in pairs:
        joined = group.get(one, {one}) | group.get(other, {other})
        group |= dict.fromkeys(joined, joined)
    groups = {id(members): sorted(members) for members in group.values()}
    return {pair for members in groups.values() for pair in combinations(members, 2)}


# -------------------------------------------------------------------------------------------------------- memory


def generated(place: int) -> Document:
    """About 30 words of Zipf's frequencies; each fifth is the one before with a word replaced."""
    is_copy = place % COPY_EVERY == COPY_EVERY - 1
    draw = random.Random(place - is_copy)
    words = [f"w{int(WORDS ** draw.random())}" for _ in range(draw.randrange(25, 40))]
    if is_copy:
        words[-1 - place % 2] = f"new{place}"
    return Document(" ".join(words), str(place))


class Shards(Sequence[Any]):
    """Arrays on disk, each read when it is asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: Any) -> Any:
        return np.load(self._files[number])


def compared(count: int, max_ram: int, folder: str) -> Row:
    """Signs and compares generated documents; what it took and found."""
    near = NearDuplicates(max_ram=max_ram, scratch=folder)
    begun, processor = time.perf_counter(), time.process_time()
    files: list[Path] = []
    for start in range(0, count, SHARD):
        files.append(Path(folder, f"{start}.npy"))
        np.save(files[-1], near.sketch([generated(place) for place in range(start, min(start + SHARD, count))]))
    signed = time.perf_counter() - begun
    found = sum(place % COPY_EVERY == COPY_EVERY - 1 for place, _ in near.compare(Shards(files), generated))
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {
        "part": "memory",
        "documents": count,
        "max_ram MB": max_ram / 1e6,
        "s": time.perf_counter() - begun,
        "s of signing": signed,
        "processor s": time.process_time() - processor,
        "peak MB": int(peak[1]) * 1024 / 1e6 if peak else float("nan"),
        "copies found": found / (count // COPY_EVERY),
    }


def memory_rows(count: int, max_ram: int) -> tuple[list[Row], list[Bar]]:
    rows: list[Row] = []
    for limit in (max_ram, 64_000_000_000):
        with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(compared, (count, limit, folder)))
    bounded, free = rows
    return rows, [
        Bar("peak memory as a share of the limit", bounded["peak MB"] / bounded["max_ram MB"], 1, at_least=False),
        Bar("time within the limit over time in memory", bounded["s"] / free["s"], 1.5, at_least=False),
    ]


@click.command()
@json_option
@click.option("--articles", default=2500, show_default=True, help="Articles that are edited: 100, 1000 or 2500.")
@click.option("--documents", default=1_000_000, show_default=True, help="Short documents of the part on memory.")
@click.option("--max-ram", default=512, show_default=True, help="Megabytes that they are compared within.")
@click.option("--threshold", "thresholds", multiple=True, default=(0.5, 0.6, 0.7, 0.8), show_default=True, type=float)
def main(as_json: bool, articles: int, documents: int, max_ram: int, thresholds: tuple[float, ...]) -> None:
    """Recall, precision and memory of near duplicates, beside datasketch and Rensa."""
    data = os.environ.get("PENSTOCK_DATA")
    if not data:
        raise click.UsageError("PENSTOCK_DATA names no folder with the data")
    folder = Path(data, "dedup")
    missing = [name for name in PEERS if util.find_spec(name) is None]
    curve = NearDuplicates(permutations=PERMUTATIONS).banding.curve(11)
    planted, planted_bars = planted_rows(folder / "minhash_articles", [n for n in (100, 1000, 2500) if n <= articles])
    texts = without_copies(folder / "minhash_articles", articles)
    found, found_bars = edited_rows(texts, missing)
    gold = gold_rows(folder / "bib_dedupe", missing, thresholds)
    memory, memory_bars = memory_rows(documents, max_ram * 1_000_000)
    rows = [*found, *planted, *gold, *memory]
    finish(
        "near_duplicates",
        rows,
        [*found_bars, *planted_bars, *memory_bars],
        as_json,
        missing=", ".join(missing) or "no peer",
        probability=", ".join(f"{similarity:.1f} {probability:.3f}" for similarity, probability in curve),
    )


if __name__ == "__main__":
    main()
