"""A model as a GGUF file, which llama.cpp reads.

The package `gguf` writes the format and knows what llama.cpp calls the tensors of each architecture. This module says
which of our models llama.cpp computes alike: mixtures in the layout of `glm4_moe`, and dense models in that of `llama`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from penstock.hooks.contracts import LanguageModel
from penstock.hooks.problems import Problem, ProblemError
from penstock.serve.folders import replaced_folder
from penstock.serve.gguf_tokenizer import Vocabulary
from penstock.serve.huggingface import HEAD, config_of, state_of

Dtype = Literal["bfloat16", "float32"]
MODEL = "model.gguf"
ARCHITECTURES = {"glm4_moe": "GLM4_MOE", "llama": "LLAMA"}
"""Of a `model_type`, its name in `gguf.MODEL_ARCH`."""
_EXPERT = re.compile(r"(?P<experts>.*\.mlp\.experts)\.(?P<expert>\d+)\.(?P<matrix>\w+)\.weight")
_ROTATED = re.compile(r".*\.self_attn\.(?P<which>[qk])_proj\.(weight|bias)")


class GgufExporter:
    """Exporter of `model.gguf`. Matrices are stored as `dtype`; vectors and routers in fp32, as llama.cpp has them."""

    def __init__(self, dtype: Dtype = "bfloat16") -> None:
        if dtype not in get_args(Dtype):
            raise ValueError(f"gguf: dtype must be 'bfloat16' or 'float32', not {dtype!r}")
        self.dtype: Dtype = dtype

    def export(self, model: LanguageModel, tokenizer_file: Path, folder: Path) -> list[Path]:
        """Writes the model to `folder`, all or nothing, and returns the files. Raises `ProblemError` for a model or a
        tokenizer that llama.cpp does not compute alike, and where `gguf` is not installed."""
        config = config_of(model)
        if reasons := list(_unlike(config)):
            fix = "export it with --for transformers or --for vllm, or serve its run with `--server penstock`"
            raise ProblemError([Problem("not-exportable", reason, "llama.cpp", fix) for reason in reasons])
        vocabulary = Vocabulary.read(tokenizer_file, model.vocabulary_size)
        gguf = _library()
        architecture = gguf.MODEL_ARCH[ARCHITECTURES[config["model_type"]]]
        with replaced_folder(folder) as temporary:
            writer = gguf.GGUFWriter(temporary / MODEL, gguf.MODEL_ARCH_NAMES[architecture])
            _describe(writer, config, gguf, self.dtype)
            vocabulary.describe(writer, config.get("eos_token_id"))
            names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
            with torch.no_grad():
                for name, tensor in _tensors(state_of(model), config):
                    self._add(writer, gguf, names.get_name(name, try_suffixes=(".weight", ".bias")), name, tensor)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        return sorted(folder.iterdir())

    def _add(self, writer: Any, gguf: Any, theirs: str | None, ours: str, tensor: Tensor) -> None:
        if theirs is None:
            what = f"llama.cpp has no place for the tensor '{ours}'"
            raise ProblemError(Problem("not-exportable", what, "export", "export it with --for transformers"))
        array = np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
        if self.dtype == "float32" or array.ndim < 2 or theirs.endswith("ffn_gate_inp.weight"):
            writer.add_tensor(theirs, array)
            return
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(theirs, gguf.quants.quantize(array, kind), raw_dtype=kind)


def _library() -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        fix = "install it with `uv add 'penstock-serve[gguf]'`"
        raise ProblemError(Problem("missing-extra", "GGUF needs the package 'gguf'", "--format", fix)) from error
    return gguf


def _unlike(config: Mapping[str, Any]) -> Iterator[str]:
    """What llama.cpp would compute otherwise."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        yield f"no GGUF of the architecture '{kind}' is written, only of {' and '.join(ARCHITECTURES)}"
        return
    if _rope(config).get("rope_type", "default") != "default":
        yield "scaled rotary embeddings are not written"
    if kind == "llama":
        if config.get("mlp_bias") or config.get("hidden_act", "silu") != "silu":
            yield "the MLP of the llama architecture has no biases, and SiLU"
        return
    if config["first_k_dense_replace"] >= config["num_hidden_layers"]:
        yield "its glm4_moe refuses a model without a layer of experts"
    if config["n_group"] > 1:
        yield "its glm4_moe chooses experts without groups"
    if config["n_shared_experts"] < 1:
        yield "its glm4_moe needs a shared expert"
    if config.get("num_nextn_predict_layers"):
        yield "layers that predict further tokens are not written; build the model with `mtp: drop`"


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rotary settings, of either spelling."""
    scaling = config.get("rope_scaling") or {}
    return {"rope_theta": config.get("rope_theta", 10_000.0), **scaling, **(config.get("rope_parameters") or {})}


def _head_dim(config: Mapping[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _describe(writer: Any, config: Mapping[str, Any], gguf: Any, dtype: Dtype) -> None:
    """The sizes of the model."""
    rope, head_dim = _rope(config), _head_dim(config)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if dtype == "float32" else gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    if config["model_type"] == "glm4_moe":
        writer.add_expert_count(config["n_routed_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_shared_count(config["n_shared_experts"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
        writer.add_leading_dense_block_count(config["first_k_dense_replace"])
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        writer.add_expert_weights_norm(config["norm_topk_prob"])
        writer.add_expert_weights_scale(config["routed_scaling_factor"])


def _tensors(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors as llama.cpp holds them, under names that `gguf` knows: the experts of a layer stacked [E, out, in],
    no head where it is the embedding, and the rotated pairs of a head beside each other for `llama`."""
    stacks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        if match := _EXPERT.fullmatch(name):
            stack = stacks.setdefault(f"{match['experts']}.{match['matrix']}.weight", {})
            stack[int(match["expert"])] = tensor
        elif name == HEAD and config.get("tie_word_embeddings"):
            continue
        elif config["model_type"] == "llama" and (match := _ROTATED.fullmatch(name)):
            heads = config["num_attention_heads"]
            heads = heads if match["which"] == "q" else config.get("num_key_value_heads") or heads
            yield name, paired(tensor, heads)
        else:
            yield name.replace("e_score_correction_bias", "e_score_correction.bias"), tensor
    for name, experts in stacks.items():
        yield name, torch.stack([experts[index] for index in range(len(experts))])


def paired(tensor: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys, [heads * D, ...], whose entries i and i + D/2 of a head are rotated together, in the
    order of llama.cpp's `llama`, which rotates 2i with 2i + 1."""
    half_HPD = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return half_HPD.transpose(1, 2).reshape(tensor.shape)
