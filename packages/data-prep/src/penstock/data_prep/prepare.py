"""From a corpus to a folder of shards: reads once, splits, trains a tokenizer, encodes, and then publishes the folder.

Everything is built in a hidden folder next to the target and renamed at the end, so the target is either absent or
complete. A lock lets one process work while others wait and then reuse its result. Documents pass through a spool file
and are never all in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xxhash

from penstock.data_prep.atomic import building, locked
from penstock.data_prep.dataset import damage, read_manifest
from penstock.data_prep.shards import (
    HASH_RULE,
    MANIFEST,
    TAIL_RULE,
    CorpusRecord,
    FileRecord,
    HeldoutRule,
    Manifest,
    SplitRecord,
    SplitWriter,
    StageRecord,
    token_type,
    write_file,
    write_files,
)
from penstock.data_prep.spool import Spool
from penstock.data_prep.tokenizer import (
    BpeTokenizer,
    read_tokenizer,
    sample_pieces,
    tokenizer_files,
    train_tokenizer,
    write_tokenizer,
)
from penstock.hooks.contracts import Corpus, Document, DocumentFilter
from penstock.hooks.problems import ExitCode, Problem, ProblemError

Progress = Callable[[str, int, int | None], None]

# Bytes of text encoded at once: enough to keep all cores busy; preparing 12 MB peaks at 300 MB of memory.
_BATCH_BYTES = 4 << 20
_REPORT_BYTES = 1 << 20


@runtime_checkable
class Fingerprinted(Protocol):
    """A corpus that can tell, without reading it all, that its input has changed."""

    def fingerprint(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """`folder` contains what `manifest` lists; `reused` if it was already there."""

    folder: Path
    manifest: Manifest
    reused: bool


def prepare(
    corpus: Corpus,
    filters: Sequence[DocumentFilter],
    folder: str | Path,
    *,
    sequence_length: int,
    vocabulary_size: int = 4096,
    heldout_share: float = 0.05,
    seed: int = 0,
    sample_bytes: int | None = None,
    tokenizer_file: str | Path | None = None,
    shard_tokens: int = 100_000_000,
    describe: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Writes the tokens of `corpus` to `folder`, or reuses them if they are already there.

    `describe` records the origin (JSON). A folder is reused if its `describe` and arguments are equal and the corpus
    detects no change of its input. `sequence_length` only has to fit into each split. `heldout_share` of the documents
    go to the split "heldout", chosen by a hash of text and `seed`, or of a single document the end; 0 leaves the split
    out. `sample_bytes` of the
    training split train the tokenizer, by default 1024 per token of the vocabulary: on Python source a tokenizer of
    4,096 tokens then compresses within 1 % of one trained on all 11.5 MB. `tokenizer_file` is an existing tokenizer to
    use instead: a `tokenizer.json`, a folder that contains one, or a llama2.c `.bin`; the vocabulary is then that of
    the file. `shard_tokens` is the size of a shard.

    `progress(stage, done, total)` is called with bytes in the stages "read" (no total), "tokenizer" and "encode".

    Raises `ProblemError` for a corpus that is empty or too short, a folder made with other settings or not by
    `prepare`, a damaged folder, and any failure to write. The folder is then unchanged.
    """
    folder = Path(folder).resolve()
    existing = None if tokenizer_file is None else read_tokenizer(tokenizer_file)
    if existing is not None:
        vocabulary_size, sample_bytes = BpeTokenizer(existing, str(tokenizer_file)).vocabulary_size, 0
    sample_bytes = 1024 * vocabulary_size if sample_bytes is None else sample_bytes
    settings = _settings(describe or {}, vocabulary_size, heldout_share, seed, sample_bytes, shard_tokens)
    if existing is not None:
        settings["tokenizer_sha256"] = hashlib.sha256(existing).hexdigest()
    try:
        # Also checked before taking the lock: finished tokens may be on read-only storage.
        if _occupied(folder):
            return _reused(folder, settings, corpus, sequence_length)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f".{folder.name}.lock")):
            if _occupied(folder):
                return _reused(folder, settings, corpus, sequence_length)
            with building(folder) as partial:
                builder = _Builder(partial, settings, existing, progress or _silent)
                manifest = builder.build(corpus, filters, sequence_length)
            return Prepared(folder, manifest, reused=False)
    except OSError as error:
        place = str(error.filename or folder)
        what = f"cannot be written ({error.strerror or error})"
        problem = Problem("disk", what, place, "free space or choose another folder")
        raise ProblemError(problem, ExitCode.FAILED) from error


def _silent(stage: str, done: int, total: int | None) -> None:
    pass


def _settings(
    describe: Mapping[str, Any],
    vocabulary_size: int,
    heldout_share: float,
    seed: int,
    sample_bytes: int,
    shard_tokens: int,
) -> dict[str, Any]:
    """The settings as they read back from the manifest, so that a comparison with it is exact."""
    if not 0 <= heldout_share < 1:
        problem = Problem("invalid-value", f"is {heldout_share}", "heldout_share", "use a share of at least 0, below 1")
        raise ProblemError(problem)
    settings = {
        "vocabulary_size": vocabulary_size,
        "heldout_share": float(heldout_share),
        "seed": seed,
        "sample_bytes": sample_bytes,
        "shard_tokens": shard_tokens,
        "describe": dict(describe),
    }
    return json.loads(json.dumps(settings))


# ---------------------------------------------------------------------------------------------- the folder


def _occupied(folder: Path) -> bool:
    return folder.exists() and (folder.is_file() or any(folder.iterdir()))


def _reused(folder: Path, settings: Mapping[str, Any], corpus: Corpus, sequence_length: int) -> Prepared:
    manifest = _existing(folder, settings, corpus)
    _require_sequences(manifest.splits, manifest.corpus.documents, sequence_length)
    return Prepared(folder, manifest, reused=True)


def _existing(folder: Path, settings: Mapping[str, Any], corpus: Corpus) -> Manifest:
    """The manifest of a folder that can be reused; otherwise raises a `ProblemError` with the reason."""
    if not (folder / MANIFEST).is_file():
        what = "exists but does not contain prepared tokens; it was left unchanged"
        raise ProblemError(Problem("folder-in-use", what, str(folder), "choose another folder"))
    manifest, _ = read_manifest(folder)
    changed = _differences(manifest.settings, settings)
    fingerprint = fingerprint_of(corpus)
    if fingerprint is not None and fingerprint != manifest.corpus.fingerprint:
        changed.append("the input files or their version changed")
    if changed:
        what = f"contains tokens that were prepared differently: {'; '.join(changed)}"
        fix = "choose another folder, or delete this one to prepare it again"
        raise ProblemError(Problem("prepared-otherwise", what, str(folder), fix))
    problems = damage(folder, manifest, verify=False)
    if problems:
        raise ProblemError(problems)
    return manifest


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    changes: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes += _differences(before, after, f"{prefix}{name}.")
        elif before != after:
            changes.append(f"{prefix}{name} was {json.dumps(before)} and is now {json.dumps(after)}")
    return changes


def fingerprint_of(corpus: Corpus) -> dict[str, Any] | None:
    """The corpus's fingerprint, or None if it has none or its input is gone: tokens outlive the text they encode."""
    try:
        return json.loads(json.dumps(corpus.fingerprint())) if isinstance(corpus, Fingerprinted) else None
    except ProblemError:
        return None


# ---------------------------------------------------------------------------------------------- the stages


class _Builder:
    """Runs the stages in a folder of its own: read, train a tokenizer unless one is given, encode, describe."""

    def __init__(self, folder: Path, settings: dict[str, Any], tokenizer: bytes | None, progress: Progress) -> None:
        self._folder = folder
        self._settings = settings
        self._existing = tokenizer
        self._progress = progress
        self._files: dict[str, FileRecord] = {}
        self._with_text = 0  # documents

    def build(self, corpus: Corpus, filters: Sequence[DocumentFilter], sequence_length: int) -> Manifest:
        fingerprint = fingerprint_of(corpus)
        counters = [_Counter(type(stage).__name__) for stage in (corpus, *filters)]
        spools = self._read(_pipeline(corpus, filters, counters), counters)
        contents = self._train(spools["train"]) if self._existing is None else tokenizer_files(self._existing)
        self._files.update(write_files(self._folder, contents))
        tokenizer = BpeTokenizer(contents["tokenizer.json"])
        splits = self._encode(tokenizer, spools)
        read = counters[0]
        _require_sequences(splits, read.documents, sequence_length)
        manifest = Manifest(
            token_bytes=2 if token_type(tokenizer.vocabulary_size).itemsize == 2 else 4,
            vocabulary_size=tokenizer.vocabulary_size,
            tokenizer_sha256=tokenizer.hash,
            splits=splits,
            heldout=HeldoutRule(
                rule=TAIL_RULE if self._settings["heldout_share"] and self._with_text == 1 else HASH_RULE,
                share=self._settings["heldout_share"],
                seed=self._settings["seed"],
            ),
            corpus=CorpusRecord(
                name=read.name,
                documents=read.documents,
                bytes=read.bytes,
                skipped=getattr(corpus, "skipped", 0),
                empty=counters[-1].documents - self._with_text,
                fingerprint=fingerprint,
            ),
            filters=tuple(before.stage(after) for before, after in pairwise(counters)),
            settings=self._settings,
            files=self._files,
        )
        write_file(self._folder / MANIFEST, manifest.model_dump_json(indent=2).encode())
        return manifest

    def _read(self, documents: Iterable[Document], counters: Sequence[_Counter]) -> dict[str, Spool]:
        share, seed = self._settings["heldout_share"], self._settings["seed"]
        names = ("train", "heldout") if share else ("train",)
        spools = {name: Spool(self._folder / f"{name}.spool") for name in names}
        reported = 0
        for document in documents:
            data = _utf8(document)
            if data:
                spools["heldout" if held_out(data, share, seed) else "train"].append(data)
            if counters[0].bytes - reported >= _REPORT_BYTES:
                reported = counters[0].bytes
                self._progress("read", reported, None)
        for spool in spools.values():
            spool.flush()
        self._progress("read", counters[0].bytes, counters[0].bytes)
        _require_documents(spools.values(), counters)
        self._with_text = sum(spool.documents for spool in spools.values())
        if share and self._with_text == 1:
            self._hold_out_tail(spools, share)
        return spools

    def _hold_out_tail(self, spools: dict[str, Spool], share: float) -> None:
        """Cuts the only document in two, because whole documents cannot be held out."""
        (document,) = (data for spool in spools.values() for data in spool)
        cut = tail_start(document, share)
        for name, part in (("train", document[:cut]), ("heldout", document[cut:])):
            spools[name].remove()
            spools[name] = Spool(self._folder / f"{name}.spool")
            if part:
                spools[name].append(part)
            spools[name].flush()

    def _train(self, spool: Spool) -> dict[str, bytes]:
        sample = self._settings["sample_bytes"]
        total = min(sample, spool.bytes)
        self._progress("tokenizer", 0, total)
        texts = (data.decode() for data in spool)
        pieces = sample_pieces(texts, total_bytes=spool.bytes, sample_bytes=sample, seed=self._settings["seed"])
        trained = train_tokenizer(pieces, vocabulary_size=self._settings["vocabulary_size"])
        self._progress("tokenizer", total, total)
        return write_tokenizer(trained)

    def _encode(self, tokenizer: BpeTokenizer, spools: Mapping[str, Spool]) -> dict[str, SplitRecord]:
        total = sum(spool.bytes for spool in spools.values())
        done = 0
        records: dict[str, SplitRecord] = {}
        for name, spool in spools.items():
            writer = SplitWriter(
                self._folder,
                name,
                vocabulary_size=tokenizer.vocabulary_size,
                shard_tokens=self._settings["shard_tokens"],
            )
            for documents in _batches(spool):
                for data, tokens in zip(documents, _encode_documents(tokenizer, documents), strict=True):
                    writer.add(tokens, text_bytes=len(data))
                    done += len(data)
                self._progress("encode", done, total)
            records[name] = writer.finish()
            self._files.update(writer.files)
            spool.remove()
        return records


def held_out(data: bytes, share: float, seed: int) -> bool:
    """Whether a document belongs to the held-out split: `share` of all texts do, whatever else is in the corpus."""
    return xxhash.xxh3_64_intdigest(data, seed % 2**64) < share * 2**64


def tail_start(data: bytes, share: float) -> int:
    """Where the last `share` of a document begins: at the nearest start of a line, if that leaves between half and
    twice the share, else between two characters."""
    at = round(len(data) * (1 - share))
    lines = (data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at) + 1 or len(data))
    nearest = min(lines, key=lambda start: abs(start - at))
    if 0 < nearest < len(data) and 0.5 <= (len(data) - nearest) / max(1, len(data) - at) <= 2:
        return nearest
    while at < len(data) and data[at] & 0xC0 == 0x80:  # inside a character
        at += 1
    return at


def _pipeline(corpus: Corpus, filters: Sequence[DocumentFilter], counters: Sequence[_Counter]) -> Iterator[Document]:
    documents = counters[0].count(corpus.documents())
    for stage, counter in zip(filters, counters[1:], strict=True):
        documents = counter.count(stage(documents))
    return documents


class _Counter:
    """Counts what leaves a stage."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.documents = 0
        self.bytes = 0

    def count(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            self.documents += 1
            self.bytes += len(document.text.encode("utf-8", "surrogatepass"))
            yield document

    def stage(self, after: _Counter) -> StageRecord:
        return StageRecord(
            name=after.name,
            documents_in=self.documents,
            documents_out=after.documents,
            bytes_in=self.bytes,
            bytes_out=after.bytes,
        )


def _utf8(document: Document) -> bytes:
    try:
        return document.text.encode()
    except UnicodeEncodeError as error:
        what = f"character {error.start} is a lone surrogate, which is not valid text"
        raise ProblemError(Problem("not-text", what, document.source, "repair or remove the document")) from None


def _batches(spool: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for data in spool:
        batch.append(data)
        size += len(data)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode_documents(tokenizer: BpeTokenizer, documents: Sequence[bytes]) -> Iterator[np.ndarray]:
    """The tokens of each document and its end-of-text, int64; raises `ProblemError` if they lack a byte of it."""
    parts = [list(tokenizer.parts(data.decode())) for data in documents]
    flat = [part for document in parts for part in document]
    end = np.array([tokenizer.end_of_text])
    encoded = _encode_in_turn(tokenizer, flat)
    for data, document in zip(documents, parts, strict=True):
        token_N = np.concatenate([next(encoded) for _ in document])
        tokenizer.require_every_byte(token_N, data)
        yield np.concatenate([token_N, end])


def _encode_in_turn(tokenizer: BpeTokenizer, texts: Sequence[str]) -> Iterator[np.ndarray]:
    """Tokens of each text; encodes at most one batch at once, however large a document is."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_BYTES:
            yield from (np.array(ids, dtype=np.int64) for ids in tokenizer.encode_batch(batch))
            batch, size = [], 0
    yield from (np.array(ids, dtype=np.int64) for ids in tokenizer.encode_batch(batch))


# ---------------------------------------------------------------------------------------------- minimum sizes


def _require_documents(spools: Iterable[Spool], counters: Sequence[_Counter]) -> None:
    if any(spool.documents for spool in spools):
        return
    if not counters[0].documents:
        raise ProblemError(Problem("empty-corpus", "the corpus has no documents", counters[0].name))
    kept = [f"{counter.name} {counter.documents}" for counter in counters]
    raise ProblemError(Problem("empty-corpus", f"no document with text is left (documents after {', '.join(kept)})"))


def _require_sequences(splits: Mapping[str, SplitRecord], documents: int, sequence_length: int) -> None:
    problems = [
        Problem(
            "too-few-tokens",
            f"split '{name}' has {split.tokens} tokens in {split.documents} of {documents} documents; one sequence and "
            f"its target need {sequence_length + 1}",
            "data",
            _remedy(name, documents),
        )
        for name, split in splits.items()
        if split.tokens <= sequence_length
    ]
    if problems:
        raise ProblemError(problems)


def _remedy(split: str, documents: int) -> str:
    if split == "train":
        return "shorten sequence_length or add text"
    if documents == 1:
        return "shorten sequence_length, raise heldout_share, or add text"
    return (
        "shorten sequence_length, raise heldout_share, or cut the text into more documents (whole documents are held "
        "out; `separator` of the corpus `text` splits files)"
    )
