"""llama2.c files become dense models that compute what llama2.c computes; damaged ones are refused."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from penstock.hooks.config import parse_config, validate
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.moe_core.glm import llama2c
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import glm_moe

SIZES = {"dim": 24, "hidden": 40, "layers": 3, "heads": 6, "kv_heads": 2, "vocabulary": 30, "positions": 16}


def blocks(dim, hidden, layers, heads, kv_heads, vocabulary, positions, tied):
    """Random weights in the order of llama2.c's `memory_map_weights`."""
    random = np.random.default_rng(0)
    head = dim // heads

    def draw(*shape):
        return (random.normal(size=shape) * 0.3).astype(np.float32)

    return {
        "embedding": draw(vocabulary, dim),
        "attention_norm": 1 + draw(layers, dim),
        "wq": draw(layers, dim, dim),
        "wk": draw(layers, kv_heads * head, dim),
        "wv": draw(layers, kv_heads * head, dim),
        "wo": draw(layers, dim, dim),
        "mlp_norm": 1 + draw(layers, dim),
        "w1": draw(layers, hidden, dim),
        "w2": draw(layers, dim, hidden),
        "w3": draw(layers, hidden, dim),
        "norm": 1 + draw(dim),
        "cosines": draw(positions, head // 2),
        "sines": draw(positions, head // 2),
        **({} if tied else {"classifier": draw(vocabulary, dim)}),
    }


def no_router(layer, **sizes):
    raise AssertionError("a dense model asks for no router")


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def checkpoint(request, tmp_path):
    """A file of random weights, and those weights."""
    weights = blocks(**SIZES, tied=request.param)
    header = list(SIZES.values())
    header[5] *= 1 if request.param else -1
    path = tmp_path / "model.bin"
    path.write_bytes(struct.pack("<7i", *header) + b"".join(block.tobytes() for block in weights.values()))
    return path, weights


def dumb_logits(weights, tokens):
    """llama2.c's `forward`, one position after the other, in fp64."""
    weights = {name: block.astype(np.float64) for name, block in weights.items()}
    head = SIZES["dim"] // SIZES["heads"]
    shared = SIZES["heads"] // SIZES["kv_heads"]
    keys, values = ([[] for _ in range(SIZES["layers"])] for _ in range(2))
    logits = []

    def normalised(x, weight):
        return weight * x / np.sqrt((x * x).mean() + 1e-5)

    def turned(x, position):
        out = x.copy()
        for i in range(0, len(x), 2):
            angle = position / 10000.0 ** ((i % head) / head)
            out[i] = x[i] * np.cos(angle) - x[i + 1] * np.sin(angle)
            out[i + 1] = x[i] * np.sin(angle) + x[i + 1] * np.cos(angle)
        return out

    for position, token in enumerate(tokens):
        x = weights["embedding"][token]
        for layer in range(SIZES["layers"]):
            y = normalised(x, weights["attention_norm"][layer])
            query = turned(weights["wq"][layer] @ y, position)
            keys[layer].append(turned(weights["wk"][layer] @ y, position))
            values[layer].append(weights["wv"][layer] @ y)
            attended = []
            for number in range(SIZES["heads"]):
                here = slice(number // shared * head, (number // shared + 1) * head)
                score = np.array([query[number * head : (number + 1) * head] @ k[here] for k in keys[layer]])
                share = np.exp(score / np.sqrt(head))
                attended.append(sum(s * v[here] for s, v in zip(share / share.sum(), values[layer], strict=True)))
            x = x + weights["wo"][layer] @ np.concatenate(attended)
            y = normalised(x, weights["mlp_norm"][layer])
            gate = weights["w1"][layer] @ y
            x = x + weights["w2"][layer] @ (gate / (1 + np.exp(-gate)) * (weights["w3"][layer] @ y))
        logits.append(weights.get("classifier", weights["embedding"]) @ normalised(x, weights["norm"]))
    return np.array(logits)


def test_logits_are_those_of_llama2c(checkpoint):
    path, weights = checkpoint
    model = glm_moe(pretrained=path, make_router=no_router)
    tokens = np.random.default_rng(1).integers(0, SIZES["vocabulary"], 11)
    logits = model.logits(model(torch.tensor(tokens)[None]).hidden_BSD)[0].detach().numpy()
    np.testing.assert_allclose(logits, dumb_logits(weights, tokens), rtol=1e-4, atol=1e-4)


def test_sizes_come_from_the_header(checkpoint):
    path, weights = checkpoint
    config = validate(GlmMoeConfig, parse_config(f"pretrained: {path}\n"), Registry([]))
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (24, 40, 3)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (6, 2, 4)
    assert (config.vocab_size, config.max_position_embeddings) == (30, 16)
    assert config.tie_word_embeddings is ("classifier" not in weights)
    assert not config.expert_layers
    assert config.router is None


def test_transformers_loads_what_it_is_written_as(checkpoint, tmp_path):
    path, _ = checkpoint
    model = glm_moe(pretrained=path, make_router=no_router)
    folder = tmp_path / "hub"
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.export_state().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.export_config()))
    token_BS = torch.randint(0, SIZES["vocabulary"], (2, 9))
    theirs = AutoModelForCausalLM.from_pretrained(folder)(token_BS).logits
    torch.testing.assert_close(model.logits(model(token_BS).hidden_BSD), theirs, rtol=1e-5, atol=1e-5)
    again = glm_moe(pretrained=folder, make_router=no_router)
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.export_state().items())


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda data: data[:-4], "damaged-file"),
        (lambda data: data + b"\0\0\0\0", "damaged-file"),
        (lambda data: data[:12], "unknown-format"),
        (lambda data: b"", "unknown-format"),
        (lambda data: struct.pack("<i", -64) + data[4:], "unknown-format"),
        (lambda data: struct.pack("<i", 25) + data[4:], "unknown-format"),
        (lambda data: struct.pack("<i", 48) + data[4:], "damaged-file"),
        (lambda data: b"PK\x03\x04" * 40, "unknown-format"),
    ],
)
def test_a_damaged_file_is_named(checkpoint, damage, code):
    path, _ = checkpoint
    path.write_bytes(damage(path.read_bytes()))
    for read in (llama2c.read_settings, llama2c.read_weights):
        with pytest.raises(ProblemError) as caught:
            read(path)
        assert (caught.value.problems[0].code, caught.value.problems[0].where) == (code, str(path))
