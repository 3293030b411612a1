"""A GGUF file holds the model: transformers computes the same logits from it, and llama.cpp says the same."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_models import TOKEN_BS, HubGlm, HubLlama
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from penstock.hooks import ProblemError
from penstock.hooks.contracts.serving import Serving
from penstock.serve.gguf_export import GgufExporter, paired
from penstock.serve.gguf_tokenizer import CONTROL, Vocabulary
from penstock.serve.servers.llama_cpp import PROGRAM, LlamaCppServer
from penstock.serve.servers.running import RunningServer, url_of

gguf = pytest.importorskip("gguf", reason="the extra `gguf` is not installed")


def export(model: Any, tokenizer_file: Path, folder: Path, **settings: Any) -> Path:
    files = GgufExporter(**settings).export(model, tokenizer_file, folder)
    return next(file for file in files if file.suffix == ".gguf")


def read(file: Path) -> Any:
    return gguf.GGUFReader(file)


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_computes_a_llama_s_logits_from_its_file(tokenizer_file: Path, tmp_path: Path, tied: bool):
    model = HubLlama(tied=tied)
    file = export(model, tokenizer_file, tmp_path / "llama", dtype="float32")
    loaded: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKEN_BS).logits, model.logits(), rtol=1e-5, atol=1e-5)


def test_paired_rows_give_the_dot_products_of_rotated_halves():
    torch.manual_seed(0)
    query_HD, angle_P = torch.randn(2, 8), torch.randn(4)
    half_HD = torch.cat((query_HD[:, :4], query_HD[:, 4:]), 1)
    turned_HD = half_HD * torch.cat((angle_P.cos(),) * 2) + (
        torch.cat((-half_HD[:, 4:], half_HD[:, :4]), 1) * torch.cat((angle_P.sin(),) * 2)
    )
    beside_HP2 = paired(query_HD.reshape(16), heads=2).reshape(2, 4, 2)
    even_HP = beside_HP2[..., 0] * angle_P.cos() - beside_HP2[..., 1] * angle_P.sin()
    odd_HP = beside_HP2[..., 0] * angle_P.sin() + beside_HP2[..., 1] * angle_P.cos()
    expected_HP2 = paired(turned_HD.reshape(16), heads=2).reshape(2, 4, 2)
    torch.testing.assert_close(torch.stack((even_HP, odd_HP), -1), expected_HP2)


def test_a_mixture_has_every_tensor_once_and_its_experts_stacked(tokenizer_file: Path, tmp_path: Path):
    model = HubGlm()
    stored = {
        each.name: each.data for each in read(export(model, tokenizer_file, tmp_path / "glm", dtype="float32")).tensors
    }
    state = model.export_state(materialize=True)
    assert sum(tensor.size for tensor in stored.values()) == sum(tensor.numel() for tensor in state.values())
    for theirs, ours in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.2.attn_q_norm.weight", "model.layers.2.self_attn.q_norm.weight"),
        ("blk.1.post_attention_norm.weight", "model.layers.1.post_attention_layernorm.weight"),
        ("blk.1.exp_probs_b.bias", "model.layers.1.mlp.gate.e_score_correction_bias"),
        ("blk.1.ffn_down_shexp.weight", "model.layers.1.mlp.shared_experts.down_proj.weight"),
        ("blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight"),
    ):
        np.testing.assert_array_equal(stored[theirs], state[ours].numpy())
    for expert in range(4):
        one = state[f"model.layers.2.mlp.experts.{expert}.up_proj.weight"].numpy()
        np.testing.assert_array_equal(stored["blk.2.ffn_up_exps.weight"][expert], one)


def test_bfloat16_is_stored_for_matrices_and_not_for_routers_and_vectors(tokenizer_file: Path, tmp_path: Path):
    kinds = {
        each.name: each.tensor_type.name for each in read(export(HubGlm(), tokenizer_file, tmp_path / "glm")).tensors
    }
    assert kinds["blk.1.ffn_up_exps.weight"] == kinds["output.weight"] == "BF16"
    assert kinds["blk.1.ffn_gate_inp.weight"] == kinds["blk.1.exp_probs_b.bias"] == kinds["output_norm.weight"] == "F32"


def test_the_vocabulary_is_by_id_with_special_tokens_marked(tokenizer_file: Path):
    vocabulary = Vocabulary.read(tokenizer_file, 310)
    by_id = Tokenizer.from_file(str(tokenizer_file)).get_vocab()
    assert {token: index for index, token in enumerate(vocabulary.tokens[: len(by_id)])} == by_id
    assert vocabulary.types[0] == CONTROL
    assert vocabulary.split == "gpt-2"
    assert vocabulary.tokens[309] == "[unused 309]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_k_dense_replace": 3}, "without a layer of experts"),
        ({"n_group": 2}, "without groups"),
        ({"model_type": "gpt2"}, "no GGUF of the architecture 'gpt2'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "scaled rotary"),
    ],
)
def test_a_model_that_llama_cpp_computes_otherwise_is_refused_and_nothing_is_written(
    tokenizer_file: Path, tmp_path: Path, change: dict[str, Any], message: str
):
    class Other(HubGlm):
        def export_config(self) -> dict[str, Any]:
            return {**super().export_config(), **change}

    with pytest.raises(ProblemError, match=message) as raised:
        export(Other(), tokenizer_file, tmp_path / "glm")
    assert "--for transformers" in raised.value.problems[0].fix
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_splits_text_in_its_own_way_is_refused(tokenizer_file: Path, tmp_path: Path):
    document = json.loads(tokenizer_file.read_text())
    document["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ProblemError, match="does not know how this tokenizer splits text"):
        Vocabulary.read(tmp_path / "tokenizer.json", 300)


@pytest.mark.parametrize("model", [HubGlm, HubLlama])
def test_llama_cpp_says_what_the_model_says(tokenizer_file: Path, tmp_path: Path, model: Any):
    if PROGRAM not in os.environ:
        pytest.skip(f"llama.cpp is not installed here: {PROGRAM} names no llama-server")
    hub = model()
    folder = export(hub, tokenizer_file, tmp_path / "model", dtype="float32").parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = LlamaCppServer(cache="f32").process(Serving(folder, port=port, slots=1, context=64, threads=1))
    tokens = Tokenizer.from_file(str(tokenizer_file)).encode("the gate of the mill").ids
    expected = hub.network.generate(torch.tensor([tokens]), max_new_tokens=16, do_sample=False, eos_token_id=None)
    with (tmp_path / "log").open("wb") as log, RunningServer(process, url_of("127.0.0.1", port), log=log) as running:
        running.wait_until_ready()
        found = post(running.url, "/tokenize", content="the gate of the mill")["tokens"]
        assert found == tokens
        body = {"prompt": tokens, "n_predict": 16, "temperature": 0, "ignore_eos": True, "return_tokens": True}
        answer = post(running.url, "/completion", **body)
    assert answer["tokens"] == expected[0, len(tokens) :].tolist()


def post(url: str, path: str, **body: Any) -> Any:
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)
