"""What recording the chosen experts takes of the forward pass of transformers' mixtures, and that it changes no bit.

Models are random and of a size whose pass takes some 100 ms on one thread: the recorder does a few small operations a
layer, which would be a large part of a toy's pass and say nothing about a real model's. A recording has four passes.

The bar holds the recorder's own time of the processor, stopped where it runs, over the rest of the same recording: to
attach it, its hooks, to remove it and to make the trace. It misses what torch takes to call a hook, which is
microseconds. The difference between passes with and without, in time of the processor and of the wall, stands beside
it and has no bar: on a shared machine it strays by several percent either way.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, TypeVar
from unittest.mock import patch

import click
import torch
from measure import Bar, finish, interleaved, json_option, rounds
from penstock_hf_models.build import hf_model
from penstock_hf_models.recording import Recording, record
from torch import Tensor
from transformers import PreTrainedModel

Result = TypeVar("Result")

BATCH, SEQUENCE, VOCABULARY = 2, 256, 4096
PASSES = 4  # of one recording; real ones have hundreds
SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 512,
    "eos_token_id": 0,
}
FINE_GRAINED = {**SIZES, "num_experts_per_tok": 4, "moe_intermediate_size": 128}
# As DeepSeek-V3 and GLM-4.5 begin: one dense layer, and a shared expert beside those that are chosen.
SHARED = {**FINE_GRAINED, "n_routed_experts": 32, "n_shared_experts": 1, "first_k_dense_replace": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {**SIZES, "num_local_experts": 8, "num_experts_per_tok": 2},
    "olmoe": {**SIZES, "intermediate_size": 128, "num_experts": 32, "num_experts_per_tok": 4},
    "qwen3_moe": {**FINE_GRAINED, "num_experts": 32, "head_dim": 32},
    "deepseek_v3": {
        **SHARED,
        "num_key_value_heads": 8,
        "n_group": 4,
        "topk_group": 2,
        "q_lora_rank": 128,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
    },
    "glm4_moe": {**SHARED, "n_group": 1, "topk_group": 1, "head_dim": 32},
}


def random_network(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return hf_model(model_type=family, settings=FAMILIES[family], vocab_size=VOCABULARY).network.eval()


def passes(network: PreTrainedModel, token_BS: Tensor) -> list[Any]:
    return [network(token_BS, use_cache=False) for _ in range(PASSES)]


def recorded(network: PreTrainedModel, token_BS: Tensor) -> list[Any]:
    with record(network) as recording:
        outputs = passes(network, token_BS)
    assert recording.trace().counts_SLE.any(axis=-1).all()
    return outputs


def own_share(network: PreTrainedModel, token_BS: Tensor) -> float:
    """The recorder's time over the rest of a recording."""
    own = 0.0

    def stopped(call: Callable[..., Result]) -> Callable[..., Result]:
        @wraps(call)
        def run(*args: Any, **kwargs: Any) -> Result:
            nonlocal own
            begun = time.process_time()
            result = call(*args, **kwargs)
            own += time.process_time() - begun
            return result

        return run

    begun = time.process_time()
    with ExitStack() as stack:
        for name in ("enter", "see", "leave"):
            stack.enter_context(patch.object(Recording, name, stopped(getattr(Recording, name))))
        recorder = record(network)
        recording = stopped(recorder.__enter__)()
        passes(network, token_BS)
        stopped(recorder.__exit__)(None, None, None)
        stopped(recording.trace)()
    return own / (time.process_time() - begun - own)


@torch.inference_mode()
def measured(family: str, token_BS: Tensor, rounds: int) -> dict[str, Any]:
    network = random_network(family)
    pairs = zip(passes(network, token_BS), recorded(network, token_BS), strict=True)
    same = all(torch.equal(plain.logits, kept.logits) for plain, kept in pairs)
    cases = {"without": lambda: passes(network, token_BS), "with": lambda: recorded(network, token_BS)}
    processor = interleaved(cases, rounds=rounds, warmup=0, clock=time.process_time)
    wall = interleaved(cases, rounds=rounds, warmup=0)
    return {
        "family": family,
        "pass, ms": processor["without"] / PASSES * 1e3,
        "recorder, %": statistics.median(own_share(network, token_BS) for _ in range(rounds)) * 100,
        "with/without, %": (processor["with"] / processor["without"] - 1) * 100,
        "wall with/without, %": (wall["with"] / wall["without"] - 1) * 100,
        "same bits": same,
    }


@click.command(help=__doc__)
@rounds(7)
@json_option
def main(rounds: int, as_json: bool) -> None:
    token_BS = torch.randint(0, VOCABULARY, (BATCH, SEQUENCE), generator=torch.Generator().manual_seed(0))
    rows = [measured(family, token_BS, rounds) for family in FAMILIES]
    bars = [Bar("families whose logits are the same bits", sum(row["same bits"] for row in rows), len(FAMILIES))]
    for row in rows:
        bars.append(Bar(f"{row['family']}: recorder over the rest, %", row["recorder, %"], 2, at_least=False))
    finish("recorder", rows, bars, as_json, tokens=BATCH * SEQUENCE, threads=torch.get_num_threads(), rounds=rounds)


if __name__ == "__main__":
    main()
