"""The least that torch needs for a step of a GLM mixture: operations by hand, no module, no server.

Rows are texts of one length: each step reads a token of every row and takes the likeliest next. All experts compute all
rows, in one batched product. `python serving_floor.py FOLDER THREADS` loads a folder in the Hugging Face layout and
answers each line `ROWS SECONDS` with the tokens a second of so many rows.

Shape suffixes: B rows, N query heads, M key/value heads, h head width, C positions read, E experts, K experts a token,
F twice the hidden width of an expert.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

BEGIN, END = 64, 192
"""Positions between which rows grow while they are timed, about those of the trace of `serving.py`."""


class HandWritten:
    """Greedy steps of `rows` texts."""

    def __init__(self, folder: Path, rows: int, positions: int = END) -> None:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        state = {name.removeprefix("model."): value for name, value in load_file(folder / "model.safetensors").items()}
        self.heads, self.keys = config["num_attention_heads"], config["num_key_value_heads"]
        self.width, self.chosen = config["head_dim"], config["num_experts_per_tok"]
        self.scale, self.epsilon = config["routed_scaling_factor"], config["rms_norm_eps"]
        self.embedding, self.norm = state["embed_tokens.weight"], state["norm.weight"]
        self.head = state.get("lm_head.weight", self.embedding)
        self.layers = [_layer(state, f"layers.{index}.") for index in range(config["num_hidden_layers"])]
        rotated = int(self.width * config["partial_rotary_factor"])
        frequency = config["rope_theta"] ** (-torch.arange(0, rotated, 2) / rotated)
        angle = torch.arange(positions)[:, None] * torch.cat((frequency, frequency))
        self.cos, self.sin, self.rotated = angle.cos(), angle.sin(), rotated
        self.cache = torch.zeros(len(self.layers), 2, rows, self.keys, positions, self.width)

    def step(self, token_B: Tensor, position: int) -> Tensor:
        """The next tokens [B] behind these, which are at `position` of their texts."""
        x_BD = self.embedding[token_B]
        for layer, cache in zip(self.layers, self.cache, strict=True):
            x_BD = x_BD + self._attention(self._normed(x_BD, layer["before"]), layer, cache, position)
            h_BD = self._normed(x_BD, layer["between"])
            x_BD = x_BD + _gated(h_BD, layer["dense"])
            if "gate" in layer:
                x_BD = x_BD + self._mixture(h_BD, layer)
        return F.linear(self._normed(x_BD, self.norm), self.head).argmax(-1)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.epsilon)

    def _attention(self, x_BD: Tensor, layer: dict[str, Any], cache: Tensor, position: int) -> Tensor:
        heads_BLh = F.linear(x_BD, layer["qkv"], layer["qkv_bias"]).view(len(x_BD), -1, self.width)
        query_BNh, key_BMh, value_BMh = heads_BLh.split((self.heads, self.keys, self.keys), dim=1)
        if "query" in layer:
            query_BNh, key_BMh = self._normed(query_BNh, layer["query"]), self._normed(key_BMh, layer["key"])
        cache[0, :, :, position], cache[1, :, :, position] = self._turned(key_BMh, position), value_BMh
        key_BMCh, value_BMCh = cache[:, :, :, : position + 1]
        # The queries that share a key are rows of one product.
        grouped = self._turned(query_BNh, position).view(len(x_BD), self.keys, -1, self.width)
        out = F.scaled_dot_product_attention(grouped, key_BMCh, value_BMCh)
        return F.linear(out.reshape(len(x_BD), -1), layer["out"])

    def _turned(self, x: Tensor, position: int) -> Tensor:
        turned, kept = x[..., : self.rotated], x[..., self.rotated :]
        first, second = turned.chunk(2, dim=-1)
        half = torch.cat((-second, first), dim=-1)
        return torch.cat((turned * self.cos[position] + half * self.sin[position], kept), dim=-1)

    def _mixture(self, x_BD: Tensor, layer: dict[str, Any]) -> Tensor:
        score_BE = F.linear(x_BD, layer["gate"]).sigmoid()
        expert_BK = (score_BE + layer["bias"]).topk(self.chosen, dim=-1).indices
        weight_BK = score_BE.gather(1, expert_BK)
        weight_BK = self.scale * weight_BK / weight_BK.sum(-1, keepdim=True)
        weight_BE = torch.zeros_like(score_BE).scatter_(1, expert_BK, weight_BK)
        up_EBF = torch.matmul(x_BD, layer["up_EDF"])
        gate, up = up_EBF.chunk(2, dim=-1)
        return torch.bmm(F.silu(gate) * up * weight_BE.T[..., None], layer["down_EHD"]).sum(0)

    def rate(self, seconds: float) -> float:
        """Tokens a second of all rows."""
        rows = self.cache.shape[2]
        token_B, steps, begun = torch.arange(rows), 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            token_B = self.step(token_B, BEGIN + steps % (END - BEGIN))
            token_B.tolist()  # as one would who shows them
            steps += 1
        return rows * steps / (time.perf_counter() - begun)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The tokens behind a prompt."""
        tokens = list(prompt)
        for position in range(len(prompt) + count - 1):
            (token,) = self.step(torch.tensor([tokens[position]]), position).tolist()
            if position >= len(prompt) - 1:
                tokens.append(token)
        return tokens[len(prompt) :]


def _gated(x_BD: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    gate, up = F.linear(x_BD, weights[0]).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, weights[1])


def _layer(state: dict[str, Tensor], at: str) -> dict[str, Any]:
    """What a step reads of a layer, with matrices that read the same input joined."""

    def joined(names: Sequence[str], part: str) -> Tensor | None:
        found = [state[name] for each in names if (name := f"{at}{each}.{part}") in state]
        return torch.cat(found) if found else None

    def gated(within: str) -> tuple[Tensor | None, Tensor]:
        return joined([f"{within}.gate_proj", f"{within}.up_proj"], "weight"), state[f"{at}{within}.down_proj.weight"]

    attention = [f"self_attn.{each}_proj" for each in "qkv"]
    layer: dict[str, Any] = {
        "before": state[f"{at}input_layernorm.weight"],
        "qkv": joined(attention, "weight"),
        "qkv_bias": joined(attention, "bias"),
        "out": state[f"{at}self_attn.o_proj.weight"],
        "between": state[f"{at}post_attention_layernorm.weight"],
    }
    if f"{at}self_attn.q_norm.weight" in state:
        layer |= {"query": state[f"{at}self_attn.q_norm.weight"], "key": state[f"{at}self_attn.k_norm.weight"]}
    if f"{at}mlp.gate.weight" not in state:
        return {**layer, "dense": gated("mlp")}
    experts = [gated(f"mlp.experts.{expert}") for expert in range(len(state[f"{at}mlp.gate.weight"]))]
    return {
        **layer,
        "dense": gated("mlp.shared_experts"),
        "gate": state[f"{at}mlp.gate.weight"],
        "bias": state[f"{at}mlp.gate.e_score_correction_bias"],
        "up_EDF": torch.stack([up.T for up, _ in experts if up is not None]).contiguous(),
        "down_EHD": torch.stack([down.T for _, down in experts]).contiguous(),
    }


@torch.inference_mode()
def main() -> None:
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    loaded: dict[int, HandWritten] = {}
    for line in sys.stdin:
        rows, seconds = line.split()
        if int(rows) not in loaded:
            loaded[int(rows)] = HandWritten(folder, int(rows))
        sys.stdout.write(f"{loaded[int(rows)].rate(float(seconds))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
