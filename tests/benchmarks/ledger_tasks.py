"""The tasks of the ledger: what of public data sets is trained on and held out, and the configs that do it."""

from __future__ import annotations

import lzma
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LENGTH = 64
SENTENCES = 5000
"""Sentences of CoNLL-2003 that are trained on."""

CONFIG = """\
name: ledger-{name}
data:
  corpus: {{use: text, paths: ["{corpus}"]}}
  filters: []
  tokenizer: {{vocab_size: 6900}}
  sequence_length: {length}
model: {{use: bert, preset: {preset}, head: {{task: {task}, labels: {labels}}}, dropout: 0.1}}
train:
  objective: {objective}
  tokens: {tokens}
  batch_size: 32
  optimizer: {{use: adamw, lr: 0.001}}
  evaluate_every: null
  checkpoint_every: 100000
  trackers: []
  observers: []
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A task's config, and the figure of a model that always says the most frequent."""

    name: str
    config: str
    baseline: float


def config_of(name: str, corpus: Path, objective: str, *, task: str, labels: int, preset: str, tokens: int) -> str:
    """The text of a run config; `corpus` is what its tokenizer is trained on."""
    told = {"task": task, "labels": labels, "preset": preset, "tokens": tokens, "length": LENGTH}
    return CONFIG.format(name=name, corpus=corpus, objective=objective, **told)


def sst2(data: Path, folder: Path, epochs: float) -> Task:
    """Sentences of reviews: 6,920 to train on, dev and test held out."""
    files = [unpacked(data / "glue" / "SST-2_sentences" / f"{name}.tsv", folder) for name in SPLITS]
    rows = [[line.rsplit("\t", 1) for line in file.read_text().splitlines()] for file in files]
    return _classification("sst2", rows, files, folder, epochs)


def mrpc(data: Path, folder: Path, epochs: float) -> Task:
    """Pairs of sentences that say the same, or not. GLUE's own test split has no labels; the corpus it is from does."""
    rows, files = [], []
    for split, name in zip(SPLITS, ("train.tsv", "dev.tsv", "msr_paraphrase_test.txt"), strict=True):
        read = unpacked(data / "glue" / "MRPC" / name, folder).read_text("utf-8-sig").splitlines()[1:]
        rows.append([[first, second, label] for label, _, _, first, second in (line.split("\t") for line in read)])
        files.append(folder / f"mrpc-{split}.tsv")
        files[-1].write_text("".join("\t".join(row) + "\n" for row in rows[-1]))
    return _classification("mrpc", rows, files, folder, epochs, ", texts: [1, 2], label: 3")


def conll2003(data: Path, folder: Path, epochs: float) -> Task:
    """Named entities of news. The baseline finds none, so its F1 is 0."""
    train, heldout = (unpacked(data / "conll2003" / f"eng.{name}.txt", folder) for name in ("train", "testa"))
    blocks = (block for block in train.read_text().split("\n\n") if block.strip())
    kept = [block for block in blocks if not block.startswith("-DOCSTART-")][:SENTENCES]
    corpus = folder / "conll2003.txt"
    corpus.write_text("\n".join(" ".join(line.split()[0] for line in block.splitlines() if line) for block in kept))
    objective = f'{{use: tags, paths: ["{train}"], heldout: ["{heldout}"], limit: {SENTENCES}}}'
    tokens = round(epochs * len(kept) * LENGTH)
    text = config_of("conll2003", corpus, objective, task="tags", labels=9, preset="small", tokens=tokens)
    return Task("conll2003", text, 0.0)


TASKS: Mapping[str, Callable[[Path, Path, float], Task]] = {"sst2": sst2, "conll2003": conll2003, "mrpc": mrpc}
SPLITS = ("train", "dev", "test")


def _classification(
    name: str,
    rows: Sequence[Sequence[Sequence[str]]],
    files: Sequence[Path],
    folder: Path,
    epochs: float,
    columns: str = "",
) -> Task:
    """Texts and a label in each row, by split; the first split is trained on."""
    train, heldout = rows[0], [row for split in rows[1:] for row in split]
    corpus = folder / f"{name}.txt"
    corpus.write_text("\n".join(text for *texts, _ in train for text in texts))
    held = ", ".join(f'"{path}"' for path in files[1:])
    objective = f'{{use: classification, paths: ["{files[0]}"], heldout: [{held}]{columns}}}'
    common = Counter(label for *_, label in train).most_common(1)[0][0]
    baseline = sum(label == common for *_, label in heldout) / len(heldout)
    tokens = round(epochs * len(train) * LENGTH)
    text = config_of(name, corpus, objective, task="classification", labels=2, preset="small", tokens=tokens)
    return Task(name, text, baseline)


def unpacked(path: Path, folder: Path) -> Path:
    """The file, out of its archive if it is in one."""
    packed = path.with_name(f"{path.name}.xz")
    if not packed.is_file():
        return path
    out = folder / path.name
    out.write_bytes(lzma.decompress(packed.read_bytes()))
    return out
