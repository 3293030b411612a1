"""What transformers loads from an export is the model that was exported: its logits, its text, its tokenizer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_models import TOKEN_BS, VOCABULARY, HubGlm
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from penstock.hooks import ProblemError
from penstock.serve.huggingface import HuggingFaceExporter


def export(model: Any, tokenizer_file: Path, folder: Path, **settings: Any) -> list[Path]:
    return HuggingFaceExporter(**settings).export(model, tokenizer_file, folder)


def load(folder: Path, dtype: str = "float32") -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_loaded_logits_are_bit_equal_and_greedy_text_the_same(tokenizer_file: Path, tmp_path: Path, shard_bytes: int):
    model = HubGlm()
    files = export(model, tokenizer_file, tmp_path / "hub", dtype="float32", shard_bytes=shard_bytes)
    assert (len([file for file in files if file.suffix == ".safetensors"]) > 1) == (shard_bytes == 20_000)
    loaded = load(tmp_path / "hub")
    with torch.no_grad():
        assert torch.equal(loaded(TOKEN_BS).logits, model.logits())
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assert torch.equal(loaded.generate(TOKEN_BS, **options), model.network.generate(TOKEN_BS, **options))


def test_tensor_names_are_those_that_transformers_saves(tokenizer_file: Path, tmp_path: Path):
    model = HubGlm()
    export(model, tokenizer_file, tmp_path / "ours", dtype="float32")
    model.network.save_pretrained(tmp_path / "theirs")
    ours, theirs = stored(tmp_path / "ours"), stored(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_bfloat16_logits_are_those_of_the_cast_model_and_the_selection_bias_stays_fp32(
    tokenizer_file: Path, tmp_path: Path
):
    model = HubGlm()
    before = {name: b.clone() for name, b in model.network.named_buffers() if name.endswith("correction_bias")}
    export(model, tokenizer_file, tmp_path / "hub")
    tensors, loaded = stored(tmp_path / "hub"), load(tmp_path / "hub", "auto")
    assert {tensor.dtype for name, tensor in tensors.items() if name not in before} == {torch.bfloat16}
    for name, bias in before.items():
        for found in (tensors[name], loaded.get_buffer(name)):
            assert found.dtype == torch.float32
            assert torch.equal(found, bias)
    cast = model.network.to(torch.bfloat16)
    for name, bias in before.items():
        owner, _, last = name.rpartition(".")
        setattr(cast.get_submodule(owner), last, bias)
    with torch.no_grad():
        assert torch.equal(loaded(TOKEN_BS).logits, cast(TOKEN_BS).logits)


def test_the_config_names_the_dtype_for_old_and_new_readers(tokenizer_file: Path, tmp_path: Path):
    export(HubGlm(), tokenizer_file, tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert config["architectures"] == ["Glm4MoeForCausalLM"]
    assert GenerationConfig.from_pretrained(tmp_path / "hub").eos_token_id == [0]


def test_a_tied_head_is_not_stored_and_is_tied_again_when_loaded(tokenizer_file: Path, tmp_path: Path):
    model = HubGlm(tied=True)
    export(model, tokenizer_file, tmp_path / "hub", dtype="float32")
    assert "lm_head.weight" not in stored(tmp_path / "hub")
    loaded = load(tmp_path / "hub")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    with torch.no_grad():
        assert torch.equal(loaded(TOKEN_BS).logits, model.logits())


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_engines_that_do_not_tie_get_the_head_as_a_tensor(tokenizer_file: Path, tmp_path: Path, engine: str):
    model = HubGlm(tied=True)
    export(model, tokenizer_file, tmp_path / "hub", dtype="float32", engine=engine)
    tensors = stored(tmp_path / "hub")
    assert torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["tie_word_embeddings"] is False
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "hub")(TOKEN_BS).logits, model.logits())


def test_a_head_that_the_config_calls_tied_and_is_not_is_refused(tokenizer_file: Path, tmp_path: Path):
    model = HubGlm(tied=True)
    model.network.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 32))
    with pytest.raises(ProblemError, match=r"lm_head\.weight"):
        export(model, tokenizer_file, tmp_path / "hub")
    assert os.listdir(tmp_path) == []


def test_a_head_that_is_shared_without_the_config_saying_so_is_stored(tokenizer_file: Path, tmp_path: Path):
    model = HubGlm()
    model.network.lm_head.weight = model.network.model.embed_tokens.weight
    export(model, tokenizer_file, tmp_path / "hub", dtype="float32")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "hub")(TOKEN_BS).logits, model.logits())


def test_the_tokenizer_is_the_same_and_decoding_inverts_encoding(tokenizer_file: Path, tmp_path: Path):
    export(HubGlm(), tokenizer_file, tmp_path / "hub")
    tokenizer, original = AutoTokenizer.from_pretrained(tmp_path / "hub"), Tokenizer.from_file(str(tokenizer_file))
    for text in ("the gate of the turbine", " don't , stop .", "m\u00fchle\n\t\u6c34\u9580 <|endoftext|> x", ""):
        assert tokenizer.encode(text) == original.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == ("<|endoftext|>", 0, 0)
    assert (len(tokenizer), tokenizer.model_max_length) == (original.get_vocab_size(), 64)


def test_the_files_returned_are_the_files_there(tokenizer_file: Path, tmp_path: Path):
    files = export(HubGlm(), tokenizer_file, tmp_path / "hub")
    assert files == sorted((tmp_path / "hub").iterdir())
    assert {file.name for file in files} >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_single_file_replaces_shards_without_leaving_any(tokenizer_file: Path, tmp_path: Path):
    export(HubGlm(), tokenizer_file, tmp_path / "hub", shard_bytes=20_000)
    files = export(HubGlm(), tokenizer_file, tmp_path / "hub")
    assert [file.name for file in files if "safetensors" in file.name] == ["model.safetensors"]


def test_the_exported_model_is_not_changed(tokenizer_file: Path, tmp_path: Path):
    model = HubGlm()
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    export(model, tokenizer_file, tmp_path / "hub")
    assert all(
        tensor.dtype == before[name].dtype and torch.equal(tensor, before[name])
        for name, tensor in model.network.state_dict().items()
    )


def test_a_folder_with_other_files_is_refused_before_anything_is_computed(tokenizer_file: Path, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ProblemError, match=r"notes\.txt"):
        export(HubGlm(), tokenizer_file, tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_settings_that_make_no_sense_are_errors():
    with pytest.raises(ValueError, match="'bfloat16' or 'float32', not 'float16'"):
        HuggingFaceExporter(dtype="float16")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="engine must be one of transformers, vllm, sglang, not 'gguf'"):
        HuggingFaceExporter(engine="gguf")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="must be positive"):
        HuggingFaceExporter(shard_bytes=0)
