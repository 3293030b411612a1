"""Every file format that Penstock reads: a sound file of it, its reader, and what must hold for whatever is read.

Where files carry checksums a damaged one is refused, or read as if nothing had happened. Elsewhere a changed letter is
another text, so the value must only be sound: valid for whoever uses it next.

Importing this imports no reader, because each format is read in a process of its own.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutations import BINARY, JSON, TEXT, Mutation, deepen, renumber

TEXTS = [f"The gate of turbine {number} opens.\nWasser fließt, 水 too.\n" * (1 + number % 5) for number in range(40)]


@dataclass(frozen=True)
class Format:
    """`write` makes a file in an empty folder and returns the one to damage; `read` reads it. `sound` raises an
    AssertionError for a value that is not the whole file's and must not come of it."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    mutations: tuple[Mutation, ...]
    sound: Callable[[Any], None]


def never(value: Any) -> None:
    """For formats with checksums."""
    raise AssertionError("it is not the value of the whole file")


def always(value: Any) -> None:
    """For readers that check everything themselves: whatever they return may be used."""


# ---------------------------------------------------------------------------------------------- text


def written(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return write


def compressed(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import zstandard

        compress: dict[str, Callable[[bytes], bytes]] = {
            ".gz": lambda data: gzip.compress(data, mtime=0),
            ".bz2": bz2.compress,
            ".xz": lzma.compress,
            ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
        }
        halves = "".join(TEXTS[:20]), "".join(TEXTS[20:])
        return written(f"a.txt{suffix}", b"".join(compress[suffix](half.encode()) for half in halves))(folder)

    return write


def read_texts(path: Path) -> list[str]:
    from penstock.data_prep.corpora import TextCorpus

    return [document.text for document in TextCorpus([path], separator="<|endoftext|>").documents()]


def sound_streams(texts: list[str]) -> None:
    """A file that ends where its first stream ends is whole."""
    assert texts == ["".join(TEXTS[:20]).strip("\r\n")]


def read_rows(path: Path) -> list[str]:
    from penstock.data_prep.corpora import JsonLines

    return [document.text for document in JsonLines([path]).documents()]


def write_examples(folder: Path) -> Path:
    lines: list[dict[str, Any]] = [{"text": text} for text in TEXTS[:5]]
    lines += [{"prompt": text, "completion": "yes"} for text in TEXTS[:5]]
    lines += [{"tokens": [1, 2, 3, number], "mask": [0, 1, 1, 1]} for number in range(5)]
    return written("a.jsonl", "\n".join(map(json.dumps, lines)).encode())(folder)


def read_examples(path: Path) -> list[dict[str, Any]]:
    from penstock.train.objectives.examples import read_examples

    return [example.fields for example in read_examples([path])]


def sound_examples(examples: list[dict[str, Any]]) -> None:
    from penstock.train.objectives.examples import FORMS

    for fields in examples:
        given = {name for form in FORMS for name in form if name in fields}
        assert given in [set(form) for form in FORMS]
        if "tokens" in fields:
            assert len(fields["tokens"]) == len(fields["mask"]) > 1
            assert all(type(token) is int and token >= 0 for token in fields["tokens"])
        else:
            sound_texts([fields[name] for name in given])


def write_parquet(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": TEXTS, "number": list(range(len(TEXTS)))})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=16)
    return folder / "a.parquet"


def read_parquet(path: Path) -> list[str]:
    from penstock.data_prep.corpora import Parquet

    return [document.text for document in Parquet([path]).documents()]


def sound_texts(texts: list[str]) -> None:
    for text in texts:
        assert text.encode().decode() == text


# ---------------------------------------------------------------------------------------------- configs


CONFIG = """\
name: quickstart
seed: 3
data:
  corpus: {use: text, paths: [corpus.txt], separator: "<|endoftext|>"}
  filters: [exact-dedup]
  tokenizer: {vocab_size: 400}
  sequence_length: 32
  heldout_share: 0.1
model:
  use: glm-moe
  preset: quickstart
  hidden_size: 32
  router: {use: sigmoid-topk, k: 2}
  balance:
    - {use: loss-free, rate: 0.01}
    - &loss {use: switch-loss, weight: 1e-3}
  sharing: [{use: tied-embeddings}]
train:
  tokens: 1_536
  batch_size: 4
  optimizer: {use: muon, lr: 0.02}
evaluate:
  prompts: ["def "]
"""


def read_run_config(path: Path) -> dict[str, Any]:
    from penstock.hooks.registry import Registry
    from penstock.run.config import load_run_config

    if not _REGISTRY:
        _REGISTRY.append(Registry.discover())
    config, _ = load_run_config(path, (), _REGISTRY[0])
    return config.resolved()


_REGISTRY: list[Any] = []  # discovered once a process


def sound_config(resolved: dict[str, Any]) -> None:
    from penstock.hooks.config import dump_config, parse_config

    assert parse_config(dump_config(resolved)).value == resolved


# ---------------------------------------------------------------------------------------------- traces


def write_npz(folder: Path) -> Path:
    import numpy as np

    from penstock.traces.accumulator import TraceAccumulator

    rng = np.random.default_rng(0)
    recorded = TraceAccumulator([1, 4], 8)
    for _ in range(6):
        recorded.add([rng.random((20, 8)).argsort(axis=1)[:, :2] for _ in range(2)], domain="text")
    recorded.trace(model="toy", k=2, hidden_size=64).save(folder / "a.npz")
    return folder / "a.npz"


def write_log(folder: Path) -> Path:
    lines: list[dict[str, Any]] = [{"type": "meta", "model_id": "a/b", "num_experts": 8}]
    for token in range(40):
        ids = [token % 8, (token * 3 + 1) % 8]
        ids = ids if ids[0] != ids[1] else [ids[0], (ids[0] + 1) % 8]
        lines += [
            {"type": "route", "layer": layer, "token_idx": token % 20, "topk_ids": ids, "w": [0.5]} for layer in (2, 3)
        ]
    return written("a.jsonl", "\n".join(map(json.dumps, lines)).encode())(folder)


def write_counts(folder: Path) -> Path:
    layers = [{str(expert): 10 + expert * layer for expert in range(8)} for layer in range(3)]
    tables = {"expert_counts": {"code": layers, "prose": {"layers": [0, 7, 15], "counts": layers}}}
    return written("a.json", json.dumps({"models": {"olmoe": tables, "mistral-x": tables}}).encode())(folder)


def write_pairs(folder: Path) -> Path:
    even = [[row, column, 2] for row in range(4) for column in range(4)]
    tables = {"expert_counts_crosslayer": {"code": [even, even], "prose": [even, even]}}
    return written("a.json", json.dumps({"models": {"mistral": tables}}).encode())(folder)


def write_recording(folder: Path) -> Path:
    theirs = Path(__file__).parents[2] / "packages" / "traces" / "tests" / "data" / "sglang.pt"
    return written("a.pt", theirs.read_bytes())(folder)


def read_traces(path: Path) -> dict[str, Any]:
    from penstock.traces.reader import read_traces

    chosen = {name: (trace.counts_SLE, trace.header, trace.expert_NLK) for name, trace in read_traces(path).items()}
    return {
        name: (counts_SLE.tolist(), header, None if expert_NLK is None else expert_NLK.tolist())
        for name, (counts_SLE, header, expert_NLK) in chosen.items()
    }


def sound_traces(traces: dict[str, Any]) -> None:
    """What the constructor of a trace checks, on numbers that Python keeps exact."""
    assert traces
    for counts, header, tokens in traces.values():
        assert all(type(count) is int and count >= 0 for step in counts for row in step for count in row)
        assert "k" not in header or 1 <= header["k"] <= len(counts[0][0])
        assert len(header["layers"]) == len(counts[0])
        if tokens is None:
            continue
        for row in range(len(counts[0])):
            ids = [expert for token in tokens for expert in token[row]]
            assert sum(step[row][expert] for step in counts for expert in set(ids)) == len(ids)
            assert all(len(set(token[row])) == len(token[row]) for token in tokens)


# ---------------------------------------------------------------------------------------------- tokenizers and shards


def write_tokenizer(folder: Path) -> Path:
    from penstock.data_prep import tokenizer

    trained = tokenizer.train_tokenizer(TEXTS, vocabulary_size=330)
    (folder / "tokenizer.json").write_bytes(tokenizer.write_tokenizer(trained)["tokenizer.json"])
    return folder / "tokenizer.json"


def write_llama2c_tokenizer(folder: Path) -> Path:
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [" t", "th", " th", "in", "the", *" abcdefghinort水"]
    records = [struct.pack("<fi", -rank, len(piece.encode())) + piece.encode() for rank, piece in enumerate(pieces)]
    return written("tokenizer.bin", struct.pack("<i", 9) + b"".join(records))(folder)


def read_tokenizer(path: Path) -> Any:
    import numpy as np

    from penstock.data_prep.tokenizer import BpeTokenizer

    tokenizer = BpeTokenizer.load(path)
    for text in (*TEXTS[:3], "\0 a  <|endoftext|>\r\n é"):
        token_N = np.array(tokenizer.encode(text))
        assert tokenizer.decode(token_N.tolist()) == text
        assert tokenizer.end_of_text not in token_N
        assert token_N.max() < tokenizer.vocabulary_size
        tokenizer.require_every_byte(token_N, text.encode())
    return tokenizer.vocabulary_size


class Listed:
    def documents(self) -> Any:
        from penstock.hooks.contracts import Document

        yield from (Document(text, str(number)) for number, text in enumerate(TEXTS))


def prepared(file: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        from penstock.data_prep.prepare import prepare

        prepare(
            Listed(), [], folder / "data", sequence_length=8, vocabulary_size=300, heldout_share=0.2, shard_tokens=900
        )
        return folder / "data" / file

    return write


def read_shards(path: Path) -> Any:
    from penstock.data_prep.dataset import TokenDataset

    dataset = TokenDataset.open(path.parent)
    splits = {name: dataset.split(name) for name in ("train", "heldout")}
    tokens = {name: split.slice(0, split.tokens).tolist() for name, split in splits.items()}
    return tokens, dataset.tokenizer().hash


def read_index(path: Path) -> Any:
    from penstock.data_prep.shards import read_index

    index = read_index(path)
    return index.lengths_N.tolist(), index.pointers_N.tolist(), index.documents_M.tolist()


def sound_index(index: Any) -> None:
    lengths, pointers, documents = index
    assert len(lengths) == len(pointers)
    assert min(lengths, default=0) >= 0
    assert pointers == sorted(pointers)
    assert documents == sorted(documents)
    assert documents[-1] == len(lengths)


# ---------------------------------------------------------------------------------------------- weights and checkpoints

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 16,
    "moe_intermediate_size": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
}


def glm_folder(file: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)
        model = _glm({"preset": "quickstart", **SIZES, "router": {"use": "sigmoid-topk", "k": 2}})
        state = {name: tensor.detach().clone().contiguous() for name, tensor in model.export_state().items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(model.export_config()))
        return folder / file

    return write


def _glm(settings: dict[str, Any]) -> Any:
    from penstock.hooks.architecture import architecture_settings, layer_routers
    from penstock.hooks.registry import Registry
    from penstock.train.compose import build_architecture

    if not _REGISTRY:
        _REGISTRY.append(Registry.discover())
    choice = _REGISTRY[0].choose("architecture", {"use": "glm-moe", **settings})
    chosen = architecture_settings(choice)
    routers = layer_routers(chosen, chosen.expert_layers)
    make = lambda layer, **context: routers[layer].build(**context)  # noqa: E731
    return build_architecture(choice, "cpu", make_router=make, quantizer=None)


def read_glm(path: Path) -> Any:
    model = _glm({"pretrained": str(path.parent)})
    return {name: tuple(tensor.shape) for name, tensor in model.export_state().items()}


def write_llama2c(folder: Path) -> Path:
    sizes = (8, 16, 2, 2, 1, 30, 16)
    dim, hidden, layers, heads, groups, vocabulary, length = sizes
    key_value = dim // heads * groups
    floats = vocabulary * dim + dim + 2 * length * (dim // heads // 2)
    floats += layers * (2 * dim + 2 * dim * dim + 2 * key_value * dim + 3 * hidden * dim)
    return written("model.bin", struct.pack("<7i", *sizes) + struct.pack("<f", 0.25) * floats)(folder)


def read_llama2c(path: Path) -> Any:
    from penstock.moe_core.glm.llama2c import read_settings, read_weights

    settings = read_settings(path)
    return settings, {name: array.shape for name, array in read_weights(path).items()}


def write_shards_of_ranks(folder: Path) -> Path:
    import torch

    from penstock.train import shards
    from penstock.train.shards import Part

    whole_62 = torch.arange(12.0).view(6, 2)
    shards.write(folder, "model", 0, {"model.w": Part(whole_62[:4], (0, 0)), "model.n": Part(torch.tensor(3), ())})
    shards.write(folder, "model", 1, {"model.w": Part(whole_62[4:], (4, 0))})
    return folder / "shards" / "model-00001.safetensors"


def read_shards_of_ranks(path: Path) -> Any:
    """Without their digests, as after a manifest was made for a damaged file."""
    from penstock.train import shards

    return {name: tuple(tensor.shape) for name, tensor in shards.read(path.parents[1]).items()}


def checkpoint(file: str) -> Callable[[Path], Path]:
    """A checkpoint as `write_checkpoint` lays it out."""

    def write(folder: Path) -> Path:
        import hashlib

        import torch

        path = folder / "step-00000005"
        path.mkdir()
        state = {"step": 5, "elapsed": 1.5, "data": {"a.bin": "0" * 64}, "engine": {"state": {0: torch.ones(3)}}}
        torch.save(state, path / "trainer.pt")
        (path / "tokenizer.json").write_text("{}")
        (path / "plugins.lock.json").write_text('{"components": []}')
        digests = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in path.iterdir()}
        (path / "manifest.json").write_text(json.dumps({"format": 1, "step": 5, "sha256": digests}))
        return path / file

    return write


def read_checkpoint(path: Path) -> Any:
    from penstock.train.checkpoint import verify_checkpoint

    found = verify_checkpoint(path.parent)
    return found.digests().get("trainer.pt"), found.plugin_changes([]), _trainer_state(found)


def read_trainer_state(path: Path) -> Any:
    """Without its digest, as after a manifest was made for a damaged file."""
    from penstock.train.checkpoint import Checkpoint

    return _trainer_state(Checkpoint(path.parent))


def _trainer_state(found: Any) -> str:
    """Its text, because a damaged name inside it is another name: only the manifest's digests tell."""
    return str(found.trainer_state())


# ---------------------------------------------------------------------------------------------- artifacts


def write_artifact(folder: Path, compress: Any = None) -> Path:
    import numpy as np

    from penstock.quant158.artifact import Content, Identity, write_artifact
    from penstock.quant158.artifact.formats import FORMATS, layouts_of

    shape = (2, 3, 70)
    arrays = {
        format: {
            name: np.full(layout.shape, 0.5 if name != "codes" else 121, layout.dtype)
            for name, layout in layouts_of(format, shape).items()
        }
        for format in FORMATS
    }
    write_artifact(
        folder / "a.penstock",
        [Content(f"layers.{format}", format, shape, lambda format=format: arrays[format]) for format in FORMATS],
        penstock="0.1.0",
        run={"name": "fuzz", "model": {"use": "glm-moe", "sharing": [], "rate": 1e-3}},
        checkpoint=Identity(5, 320, "0" * 64),
        architecture="penstock-moe-core:glm-moe",
        decoder={"kind": "transformer", "layers": [{"mlp": "dense", "hidden": 8}]},
        aliases={"again": "layers.fp32", "more": "layers.int8-rows"},
        files={"tokenizer.json": b"{}", "data.json": b'{"files": {}}'},
        compress=compress,
    )
    return folder / "a.penstock"


def write_coded_artifact(folder: Path) -> Path:
    return write_artifact(folder, "lzma")


def write_artifact_header(folder: Path, compress: Any = None) -> Path:
    """The header alone; `a.parts` beside it has the rest."""
    data = write_artifact(folder, compress).read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    (folder / "a.parts").write_bytes(data[-(-(48 + length) // 64) * 64 :])
    return written("a.json", data[48 : 48 + length])(folder)


def write_coded_header(folder: Path) -> Path:
    return write_artifact_header(folder, "lzma")


def write_coded_stream(folder: Path) -> Path:
    """The stream of one tensor; `a.penstock` beside it is the artifact that it belongs to."""
    from penstock.quant158.artifact import Artifact

    path = write_artifact(folder, "lzma")
    offset, size, *_ = Artifact.open(path).tensor("layers.fp32").parts["values"].to_json()
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    start = -(-(48 + length) // 64) * 64 + offset
    return written("a.lzma", data[start : start + size])(folder)


def read_coded_stream(path: Path) -> Any:
    """Decoded as the array of its tensor, as by whoever gives it the hash that fits."""
    from penstock.hooks.problems import Problem, ProblemError
    from penstock.quant158.artifact.coding import decoded

    try:
        return decoded(path.read_bytes(), 4, 4 * 2 * 3 * 70)
    except ValueError as error:
        raise ProblemError(Problem("damaged-file", str(error), str(path), "copy it again")) from None


def sound_stream(value: Any) -> None:
    assert len(value) == 4 * 2 * 3 * 70


def read_artifact(path: Path) -> Any:
    from penstock.quant158.artifact import Artifact

    artifact = Artifact.open(path)
    artifact.verify()
    weights = {name: (artifact.tensor(name).shape, artifact.weight(name)) for name in artifact.names}
    files = {name: artifact.file(name) for name in artifact.header.files}
    read = {name: (shape, list(weight.shape), weight.tolist()) for name, (shape, weight) in weights.items()}
    return read, files, artifact.header.to_json()


def read_artifact_header(path: Path) -> Any:
    """With the hash of a damaged header, as whoever means harm would write it."""
    import hashlib

    text = path.read_bytes()
    version = 2 if b'"lzma"' in text else 1
    prefix = struct.pack("<8sII32s", b"PENSTOCK", version, len(text), hashlib.sha256(text).digest())
    start = -(-(48 + len(text)) // 64) * 64
    whole = (prefix + text).ljust(start, b"\0") + path.with_name("a.parts").read_bytes()
    path.with_name("b.penstock").write_bytes(whole)
    return read_artifact(path.with_name("b.penstock"))


def sound_artifact(value: Any) -> None:
    read, files, header = value
    assert set(header["aliases"].values()) <= header["tensors"].keys()
    for shape, found, _ in read.values():
        assert list(shape) == found
    parts = [part for tensor in header["tensors"].values() for part in tensor["parts"].values()]
    parts += header["files"].values()
    ends = 0
    for offset, size, *_ in sorted(parts):
        assert offset == -(-ends // 64) * 64
        ends = offset + size
    assert all("/" not in name for name in files)


# ---------------------------------------------------------------------------------------------- run records


def write_evaluation(folder: Path) -> Path:
    figures = {"metrics": {"heldout.bits_per_byte@disjoint-32": 2.5}, "details": {"tokens": 5}, "seconds": 1.0}
    value = {"checkpoint": "step-00000005", "tasks": {"heldout": figures}, "heldout_bits_per_byte": 2.5}
    return written("evaluation.json", json.dumps(value).encode())(folder)


def read_evaluation(path: Path) -> Any:
    from penstock.run.records.evaluation import Evaluation
    from penstock.run.records.record import as_json, read_record

    return as_json(read_record(Evaluation, path))


def run_folder(file: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        run = folder / "20260101T000000Z-0123abcd"
        run.mkdir()
        rows = [{"step": step, "loss": 3.0 - step / 50, "tokens": step * 64, "lr": 0.01} for step in range(1, 40)]
        rows += [{"step": step, "heldout/bits_per_byte": 2.0} for step in (20, 39)]
        contents = {
            "metrics.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows),
            "config.resolved.yaml": CONFIG,
            "status.json": '{"state": "finished", "step": 39, "tokens_seen": 2496}',
            "plugins.lock.json": '{"components": []}',
        }
        for name in {file, "status.json"}:  # the others of a run only take time to read
            (run / name).write_text(contents[name])
        return run / file

    return write


def read_report(path: Path) -> Any:
    """What a report shows; a page of it takes a second, so none is made."""
    from penstock.report.data import read_run

    run = read_run(path.parent)
    assert all(problem.where for problem in run.problems)
    return run.name, run.status, run.plugins, None if run.metrics is None else sorted(run.metrics.train), run.problems


FORMATS: dict[str, Format] = {
    **{
        suffix[1:]: Format(compressed(suffix), read_texts, BINARY, sound_streams)
        for suffix in (".gz", ".bz2", ".xz", ".zst")
    },
    "text": Format(written("a.txt", "<|endoftext|>".join(TEXTS).encode()), read_texts, TEXT, sound_texts),
    "jsonl": Format(
        written("a.jsonl", "\n".join(json.dumps({"text": text, "id": 7}) for text in TEXTS).encode()),
        read_rows,
        (*JSON, deepen),
        sound_texts,
    ),
    "examples": Format(write_examples, read_examples, (*JSON, deepen), sound_examples),
    "parquet": Format(write_parquet, read_parquet, BINARY, sound_texts),
    "config": Format(written("run.yaml", CONFIG.encode()), read_run_config, (*TEXT, deepen), sound_config),
    "trace-npz": Format(write_npz, read_traces, BINARY, never),
    "trace-vllm": Format(write_log, read_traces, (*JSON, deepen), sound_traces),
    "trace-counts": Format(write_counts, read_traces, (*JSON, deepen), sound_traces),
    "trace-pairs": Format(write_pairs, read_traces, (*JSON, deepen), sound_traces),
    "trace-sglang": Format(write_recording, read_traces, BINARY, never),
    "tokenizer": Format(write_tokenizer, read_tokenizer, JSON, always),
    "llama2c-tokenizer": Format(write_llama2c_tokenizer, read_tokenizer, BINARY, always),
    "shard": Format(prepared("train-00000.bin"), read_shards, BINARY, never),
    "index": Format(prepared("train-00000.idx"), read_index, BINARY, sound_index),
    "manifest": Format(prepared("manifest.json"), read_shards, (*JSON, deepen), never),
    "evaluation": Format(write_evaluation, read_evaluation, (*JSON, deepen), always),
    "metrics": Format(run_folder("metrics.jsonl"), read_report, (*JSON, deepen), always),
    "status": Format(run_folder("status.json"), read_report, (*JSON, deepen), always),
    "run-config": Format(run_folder("config.resolved.yaml"), read_report, (*TEXT, deepen), always),
    "run-lock": Format(run_folder("plugins.lock.json"), read_report, (*JSON, deepen), always),
    "llama2c": Format(write_llama2c, read_llama2c, BINARY, always),
    "safetensors": Format(glm_folder("model.safetensors"), read_glm, (*BINARY, renumber, renumber), never),
    "glm-config": Format(glm_folder("config.json"), read_glm, (*JSON, deepen), always),
    "checkpoint": Format(checkpoint("manifest.json"), read_checkpoint, (*JSON, deepen), never),
    "artifact": Format(write_artifact, read_artifact, (*BINARY, renumber, renumber), never),
    "artifact-coded": Format(write_coded_artifact, read_artifact, (*BINARY, renumber, renumber), never),
    "artifact-coded-header": Format(write_coded_header, read_artifact_header, (*JSON, deepen), sound_artifact),
    "artifact-stream": Format(write_coded_stream, read_coded_stream, BINARY, sound_stream),
    "artifact-header": Format(write_artifact_header, read_artifact_header, (*JSON, deepen), sound_artifact),
    "shards": Format(write_shards_of_ranks, read_shards_of_ranks, (*BINARY, renumber, renumber), always),
    "trainer-state": Format(checkpoint("trainer.pt"), read_trainer_state, BINARY, always),
}
