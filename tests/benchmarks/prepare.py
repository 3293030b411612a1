"""What each stage of data preparation costs: MB of text a second, by the processor and by the clock, and peak memory.

    python tests/benchmarks/prepare.py [--megabytes 200] [--datatrove PYTHON] [--data FOLDER] [--json]

Each stage of cleaning is one `clean` of the whole corpus, which was read before: it reads shards, decides and writes
its decisions, in one process of its own, whose peak counts Python and its libraries. Near duplicates are signing and
comparing. Tokenizing trains a tokenizer on its sample and writes shards; packing reads an epoch of batches of them.

The text is `web_text` of PENSTOCK_DATA, or else the source of Python's standard library, cut into documents of 200 to
6,000 characters. From its second round on, a quarter of the words are drawn from others of the round. Of 20 documents
one is an earlier one, and one an earlier one with its last words cut. Nothing depends on the machine but the source.

datatrove 0.10.1 (PYTHON of an environment with `datatrove==0.10.1`, `xxhash<4`, spacy and tokenizers) gets the first
5 MB: its filters and ours with the splitters that each has by default, and its signatures of 14 x 8 values beside ours
of 112, both without files.
"""

from __future__ import annotations

import json
import lzma
import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from measure import Bar, finish, json_option, peak_megabytes
from quality import RULES, judged

from penstock.data_prep.cleaning.clean import clean
from penstock.data_prep.cleaning.contrastive import learn
from penstock.data_prep.cleaning.signatures import Signer
from penstock.data_prep.corpora import JsonLines, PythonStdlib
from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.order import TokenOrder
from penstock.data_prep.prepare import prepare
from penstock.hooks.registry import Registry

FILTERS, SIGNATURES = 20, 50
"""How many times fewer processor seconds than datatrove's."""
SEQUENCE, BATCH = 1024, 8
Cleaner = Mapping[str, Any]


# ------------------------------------------------------------------------------------------------ text


def source_texts(data: Path | None) -> Iterator[str]:
    """Long texts."""
    if data is None:
        yield from (document.text for document in PythonStdlib(docstrings=False).documents())
        return
    for file in sorted((data / "web_text").glob("*.txt.xz")):
        yield lzma.decompress(file.read_bytes()).decode()


def pieces(data: Path | None, generator: np.random.Generator) -> list[str]:
    """The texts, cut at ends of lines."""
    cut: list[str] = []
    for text in source_texts(data):
        lines, held = text.splitlines(keepends=True), ""
        wanted = int(generator.integers(200, 6000))
        for line in lines:
            held += line
            if len(held) >= wanted:
                cut.append(held)
                held, wanted = "", int(generator.integers(200, 6000))
        cut += [held] if held.strip() else []
    return [cut[int(place)] for place in generator.permutation(len(cut))]


def documents(data: Path | None, size: int) -> Iterator[str]:
    """Texts of `size` bytes together."""
    generator = np.random.default_rng(0)
    first = pieces(data, generator)
    earlier, words, done, place = [""], np.array([""], object), 0, 0
    while done < size:
        text, number = first[place % len(first)], place % 20
        if place >= len(first) and place % 100 == 0:
            words = np.array(
                [word for each in generator.choice(np.array(first, object), 100) for word in each.split(" ")]
            )
        if place >= len(first):
            own = np.array(text.split(" "), object)
            drawn = generator.random(len(own)) < 0.25
            own[drawn] = generator.choice(words, int(drawn.sum()))
            text = " ".join(own)
        if number in (8, 18):
            text = earlier[int(generator.integers(len(earlier)))]
            text = text if number == 8 else text[: len(text) * 19 // 20]
        earlier = [*earlier[-99:], text] if number < 8 else earlier
        place += 1
        if text.strip():
            done += len(text.encode())
            yield text


def write_corpus(folder: Path, data: Path | None, size: int) -> None:
    """The corpus, texts of evaluations of which every tenth stands in it, and a model of good text."""
    kept: list[str] = []
    with (folder / "corpus.jsonl").open("w") as file:
        for place, text in enumerate(documents(data, size)):
            url = f"https://Example.org/{place - place % 50 // 49}?utm_source=a"
            file.write(json.dumps({"text": text, "url": url}) + "\n")
            if len(kept) < 2000:
                kept.append(text)
    with (folder / "evaluation.jsonl").open("w") as file:
        for number, text in enumerate(kept):
            words = text.split()[:20]
            file.write(json.dumps({"text": " ".join(words if number % 10 == 0 else sorted(words))}) + "\n")
    half = len(kept) // 2
    learn([" ".join(sorted(text.split())) for text in kept[:half]], kept[half:]).save(folder / "model.npz")


# ---------------------------------------------------------------------------------------------- stages


def cleaners(folder: Path) -> dict[str, Cleaner]:
    plain = ("gopher", "gopher-repetition", "c4", "fineweb", "language", "masking", "near", "substrings")
    model = str(folder / "model.npz")
    return {
        "exact": {"use": "exact"},
        "exact lines": {"use": "exact", "unit": "line"},
        "URLs": {"use": "urls"},
        **{name: {"use": name} for name in plain},
        "decontamination": {"use": "decontaminate", "paths": [str(folder / "evaluation.jsonl")]},
        "contrastive": {"use": "contrastive", "model": model},
        "resampling": {"use": "resampling", "model": model},
    }


def work(folder: Path, stage: str) -> dict[str, Any]:
    """Does a stage, and says what it did."""
    corpus = JsonLines([folder / "corpus.jsonl"], url="url")
    if stage == "packing":
        split = TokenDataset.open(folder / "tokens").split("train")
        order = TokenOrder(split, sequence_length=SEQUENCE, batch_size=BATCH, seed=0)
        return {"sequences": sum(len(order.batch(step)) for step in range(int(order.steps_per_epoch)))}
    if stage == "tokenizing":
        done = prepare(corpus, [], folder / "tokens", sequence_length=SEQUENCE, vocabulary_size=32_768)
        return {"documents": sum(split.documents for split in done.manifest.splits.values())}
    chosen = [] if stage == "reading" else [(cleaners(folder)[stage], "")]
    cleaned = clean(corpus, chosen, folder / "cleaned", Registry.discover(), describe={"use": "jsonl"})
    return {"documents": cleaned.documents, "removed": cleaned.documents - cleaned.left}


def measured(folder: Path, stage: str) -> dict[str, Any]:
    """Runs in a process of its own, because a process only knows the peak of its whole life."""
    wall, processor = time.perf_counter(), time.process_time()
    did = work(folder, stage)
    return {
        **did,
        "wall s": time.perf_counter() - wall,
        "processor s": time.process_time() - processor,
        "peak MB": peak_megabytes(),
    }


def rows_of(data: Path | None, megabytes: float, only: Sequence[str]) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder, data, round(megabytes * 1e6))
        stages = ["reading", *(each for each in cleaners(folder) if not only or each in only)]
        for stage in [*stages, "tokenizing", "packing"]:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(measured, (folder, stage))
            speeds = {"MB/processor s": megabytes / row["processor s"], "MB/wall s": megabytes / row["wall s"]}
            click.echo(f"{stage}: {row['wall s']:.1f} s", err=True)
            yield {"stage": stage, **row, **speeds}


# ------------------------------------------------------------------------------------------- datatrove


def against_datatrove(python: str, texts: Sequence[str]) -> tuple[dict[str, Any], list[Bar]]:
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "texts.json", Path(folder) / "answer.json"
        given.write_text(json.dumps(texts))
        script = Path(__file__).with_name("prepare_peer.py")
        subprocess.run([python, str(script), str(given), str(answer)], check=True)
        peer = json.loads(answer.read_text())
    bars = [
        Bar(f"{name}: datatrove's processor s / ours", peer[name] / judged(build(), texts)[1], FILTERS)
        for name, build in RULES.items()
    ]
    signer = Signer(112, 1, hash="xxh32")
    signer.sign(texts[:1])
    begun = time.process_time()
    signer.sign(texts)
    seconds = time.process_time() - begun
    bars.append(Bar("signatures: datatrove's processor s / ours", peer["signatures"] / seconds, SIGNATURES))
    return peer, bars


@click.command(help=__doc__)
@click.option("--megabytes", default=200.0, show_default=True, help="Text of the stages.")
@click.option("--stage", "only", multiple=True, help="Measure only these stages of cleaning; default: all.")
@click.option("--datatrove", type=click.Path(exists=True, dir_okay=False), help="Python with datatrove.")
@click.option("--sample", default=5.0, show_default=True, help="Megabytes that datatrove gets.")
@click.option("--data", envvar="PENSTOCK_DATA", type=click.Path(exists=True, path_type=Path))
@json_option
def main(
    megabytes: float, only: tuple[str, ...], datatrove: str | None, sample: float, data: Path | None, as_json: bool
) -> None:
    rows = list(rows_of(data, megabytes, only))
    text = "web_text of PENSTOCK_DATA" if data else "Python's standard library"
    facts: dict[str, Any] = {"text": f"{text}, repeated with a quarter of its words changed"}
    bars: list[Bar] = []
    if datatrove is not None:
        peer, bars = against_datatrove(datatrove, list(documents(data, round(sample * 1e6))))
        facts["datatrove"] = peer.pop("version")
        facts["datatrove MB/processor s"] = {name: round(sample / seconds, 3) for name, seconds in peer.items()}
    else:
        facts["datatrove"] = "not asked: no --datatrove"
    finish("prepare", rows, bars, as_json, **facts)


if __name__ == "__main__":
    main()
