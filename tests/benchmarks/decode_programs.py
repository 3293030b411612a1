"""The programs of ternary_decode.py: each a process that loads the same weights and does what it is told on stdin.

`python decode_programs.py PROGRAM THREADS FOLDER` prints a line of JSON when it has loaded, and one for each line that
it reads: `prompt N` reads N tokens, `decode N` draws N tokens greedily behind one, `logits N` prints those behind N.
It runs with numpy and what the program itself needs, so llama.cpp may live in an environment of its own: its packages
are llama-cpp-python and gguf.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

LONGEST = 512
LIBRARIES = {"penstock": "penstock.quant158.decoder", "llama.cpp": "llama_cpp"}


class Program(ABC):
    """One text at a time."""

    @abstractmethod
    def restart(self) -> None: ...

    @abstractmethod
    def read(self, tokens: list[int]) -> np.ndarray:
        """The logits behind the last of the tokens."""

    def next(self, token: int) -> int:
        """Reads a token and takes the likeliest next one."""
        return int(self.read([token]).argmax())


class Penstock(Program):
    def __init__(self, folder: Path, threads: int) -> None:
        from penstock.quant158.artifact import Artifact
        from penstock.quant158.decoder import Decoder, decodable

        artifact = Artifact.open(folder / "model.penstock")
        artifact.verify()
        self.decoder = Decoder(artifact, decodable(artifact, artifact.header.decoder, "model"), threads=threads)
        self.restart()

    def restart(self) -> None:
        self.text = self.decoder.text(LONGEST)

    def read(self, tokens: list[int]) -> np.ndarray:
        if len(tokens) > 1:
            self.text.read(tokens[:-1])
        return self.text.logits(tokens[-1:])[0]

    def next(self, token: int) -> int:
        return self.text.next((token,))


def write_gguf(folder: Path) -> Path:
    """The same weights in the layout that llama.cpp calls llama: ternary matrices as TQ2_0, exactly, because a group is
    its block of 256; embedding and head as Q8_0, whose scales are of 32 weights."""
    gguf: Any = importlib.import_module("gguf")
    sizes, arrays = json.loads((folder / "sizes.json").read_text()), np.load(folder / "weights.npz")
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_context_length(LONGEST)
    writer.add_embedding_length(sizes["width"])
    writer.add_block_count(sizes["layers"])
    writer.add_feed_forward_length(sizes["hidden"])
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["heads"])
    writer.add_layer_norm_rms_eps(sizes["epsilon"])
    writer.add_rope_dimension_count(sizes["head_width"])
    writer.add_rope_freq_base(sizes["rope_theta"])
    writer.add_vocab_size(sizes["vocabulary"])
    writer.add_tokenizer_model("no_vocab")
    for name, weight in arrays.items():
        layer, _, rest = name.removeprefix("layers.").partition(".")
        if rest.startswith(("self_attn.q_proj", "self_attn.k_proj")):
            weight = pairs_as_neighbours(weight, sizes["heads"])
        kind = gguf.GGMLQuantizationType[GGUF_KINDS.get(name, "F32" if weight.ndim == 1 else "TQ2_0")]
        to = f"blk.{layer}.{GGUF_NAMES[rest]}" if name.startswith("layers.") else GGUF_NAMES[name]
        packed = weight if weight.ndim == 1 else gguf.quants.quantize(weight, kind)
        if kind.name == "TQ2_0" and not np.array_equal(gguf.quants.dequantize(packed, kind), weight):
            raise SystemExit(f"{name} is not exactly what TQ2_0 holds")
        writer.add_tensor(to, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model.gguf"


GGUF_KINDS = {"embed_tokens.weight": "Q8_0", "lm_head.weight": "Q8_0"}
GGUF_NAMES = {
    "embed_tokens.weight": "token_embd.weight",
    "lm_head.weight": "output.weight",
    "norm.weight": "output_norm.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def pairs_as_neighbours(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k so that entry i and entry i + half of a head, which rotate together, lie side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


class LlamaCpp(Program):
    """llama.cpp through llama-cpp-python's bindings of its C interface."""

    def __init__(self, folder: Path, threads: int) -> None:
        llama_cpp: Any = importlib.import_module("llama_cpp")  # of another environment than ours
        self.lib = llama_cpp
        self.silence = llama_cpp.llama_log_callback(lambda level, text, data: None)  # kept, or it crashes later
        llama_cpp.llama_log_set(self.silence, ctypes.c_void_p(0))
        parameters = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(folder / "model.gguf").encode(), parameters)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = LONGEST
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(LONGEST, 0, 1)
        self.restart()

    def restart(self) -> None:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        self.length = 0

    def read(self, tokens: list[int]) -> np.ndarray:
        self.batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i] = token, self.length + i
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, 0
            self.batch.logits[i] = i == len(tokens) - 1
        if self.lib.llama_decode(self.context, self.batch):
            raise SystemExit("llama_decode failed")
        self.length += len(tokens)
        logits = self.lib.llama_get_logits_ith(self.context, len(tokens) - 1)
        return np.ctypeslib.as_array(logits, (self.vocabulary,))


class Torch(Program):
    """The least that torch needs for it: operations by hand, with a cache. `kind` fp32, bf16, or int8: bf16 inputs and
    int8 weights with a scale a row by `torch._weight_int8pack_mm`, torch's own weight-only product on a CPU."""

    def __init__(self, folder: Path, threads: int, kind: str) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch, self.kind = torch, kind
        self.dtype = torch.float32 if kind == "fp32" else torch.bfloat16
        sizes = json.loads((folder / "sizes.json").read_text())
        self.heads, self.head_width, self.epsilon = sizes["heads"], sizes["head_width"], sizes["epsilon"]
        arrays = np.load(folder / "weights.npz")
        plain = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        self.embedding, self.norm = plain["embed_tokens.weight"].to(self.dtype), plain["norm.weight"].to(self.dtype)
        self.head = self._matrix(plain["lm_head.weight"])
        self.layers = [self._layer(plain, f"layers.{index}.") for index in range(sizes["layers"])]
        frequency = sizes["rope_theta"] ** (-torch.arange(0, self.head_width, 2) / self.head_width)
        angle = torch.arange(LONGEST)[:, None] * frequency
        self.cos, self.sin = angle.cos().to(self.dtype), angle.sin().to(self.dtype)
        shape = (len(self.layers), 2, self.heads, LONGEST, self.head_width)
        self.cache = torch.zeros(shape, dtype=self.dtype)
        self.restart()

    def _layer(self, plain: dict[str, Any], at: str) -> dict[str, Any]:
        attention, cat = at + "self_attn.", self.torch.cat
        return {
            "before": plain[at + "input_layernorm.weight"].to(self.dtype),
            "qkv": self._matrix(cat([plain[f"{attention}{each}_proj.weight"] for each in "qkv"])),
            "out": self._matrix(plain[attention + "o_proj.weight"]),
            "between": plain[at + "post_attention_layernorm.weight"].to(self.dtype),
            "gate_up": self._matrix(cat([plain[f"{at}mlp.{each}_proj.weight"] for each in ("gate", "up")])),
            "down": self._matrix(plain[at + "mlp.down_proj.weight"]),
        }

    def _matrix(self, weight: Any) -> Any:
        """A function that multiplies with it."""
        torch = self.torch
        if self.kind != "int8":
            weight = weight.to(self.dtype)
            return lambda x: torch.nn.functional.linear(x, weight)
        scale = weight.abs().amax(1, keepdim=True) / 127
        codes, scale = (weight / scale).round().to(torch.int8), scale.flatten().to(self.dtype)
        return lambda x: torch._weight_int8pack_mm(x, codes, scale)

    def restart(self) -> None:
        self.length = 0

    def read(self, tokens: list[int]) -> np.ndarray:
        torch, functional = self.torch, self.torch.nn.functional
        begin, end = self.length, self.length + len(tokens)
        cos, sin = self.cos[begin:end, None, None], self.sin[begin:end, None, None]
        x = self.embedding[tokens]
        for layer, cache in zip(self.layers, self.cache, strict=True):
            heads = layer["qkv"](self._normed(x, layer["before"])).view(len(tokens), 3, self.heads, self.head_width)
            first, second = heads[:, :2].chunk(2, dim=-1)
            turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
            cache[0, :, begin:end], cache[1, :, begin:end] = turned[:, 1].transpose(0, 1), heads[:, 2].transpose(0, 1)
            query, key, value = turned[:, 0].transpose(0, 1)[None], cache[0, None, :, :end], cache[1, None, :, :end]
            out = functional.scaled_dot_product_attention(query, key, value, is_causal=begin == 0 and len(tokens) > 1)
            x = x + layer["out"](out[0].transpose(0, 1).reshape(len(tokens), -1))
            gate, up = layer["gate_up"](self._normed(x, layer["between"])).chunk(2, dim=-1)
            x = x + layer["down"](functional.silu(gate) * up)
        self.length = end
        return self.head(self._normed(x[-1:], self.norm))[0].float().numpy()

    def _normed(self, x: Any, weight: Any) -> Any:
        return self.torch.nn.functional.rms_norm(x, weight.shape, weight, self.epsilon)


def program(name: str, folder: Path, threads: int) -> Program:
    if name == "llama.cpp":
        return LlamaCpp(folder, threads)
    return Penstock(folder, threads) if name == "penstock" else Torch(folder, threads, name.removeprefix("torch-"))


def prompt(length: int) -> list[int]:
    return np.random.default_rng(0).integers(0, 4096, length).tolist()


def answer(loaded: Program, order: str, count: int) -> dict[str, Any]:
    loaded.restart()
    if order == "logits":
        return {"logits": loaded.read(prompt(count)).tolist()}
    token = 5 if order == "prompt" else loaded.next(5)
    begun = time.perf_counter()
    if order == "prompt":
        loaded.read(prompt(count))
    else:
        for _ in range(count):
            token = loaded.next(token)
    return {"seconds": time.perf_counter() - begun}


def main() -> None:
    name, threads, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if name == "gguf":
        say({"bytes": write_gguf(folder).stat().st_size})
        return
    importlib.import_module(LIBRARIES.get(name, "torch"))  # is not counted
    begun = time.perf_counter()
    loaded = program(name, folder, threads)
    say({"load_seconds": time.perf_counter() - begun})
    for line in sys.stdin:
        order, count = line.split()
        result = answer(loaded, order, int(count))
        say({**result, "peak_bytes": peak_bytes()})


def peak_bytes() -> int:
    """The most memory that this process had. (`getrusage` would count its parent's, from before it began.)"""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def say(result: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
