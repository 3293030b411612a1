"""How unevenly public mixtures use their experts, and what that costs the exchange between GPUs.

Traces: counts of OLMoE-1B-7B (pretrained, and after supervised and preference tuning) and of Mixtral-8x7B, three layers
each over domains of text; the first layer of OLMoE and of Qwen1.5-MoE-A2.7B-Chat on GSM8K, in windows of tokens. `gini`
and `most / mean` are of a domain or a window, the mean over them with the half width of Student's 95 % interval;
without one where there are fewer than three. Text of one kind is what a server sees within a batch, so this is more
than the Gini of all domains together, which `pooled gini` is.

`slower %` is how much longer dispatch and combine take than with evenly loaded experts, in the alpha-beta model of
eight H100 a node, experts in order, a batch of 4,096 tokens a GPU. It is simulated, of exchanges alone: the computation
of the other GPUs, which waits for the busiest, is not in it. Latency is the same either way, so a small batch loses
less.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from measure import finish, json_option
from numpy.typing import NDArray

from penstock.evaluate.paired import half_width
from penstock.netsim.placement import Contiguous
from penstock.netsim.simulate import simulate
from penstock.netsim.topology import TwoLevel
from penstock.traces.load import gini, max_violation
from penstock.traces.reader import read_traces
from penstock.traces.trace import RoutingTrace

Counts = NDArray[np.int64]
WINDOW = 1024  # tokens: some 130 assignments an expert, so that chance adds little to the Gini
HIDDEN_SIZE = {8: 4096, 60: 2048, 64: 2048}  # by number of experts: Mixtral, Qwen1.5-MoE, OLMoE
GPUS = {8: 8, 60: 20, 64: 16}
FILES = {
    "olmoe_mixtral_expert_counts.json": "text domains",
    "olmoe-1b-7b_gsm8k_layer0_vllm.jsonl.xz": "GSM8K",
    "qwen1.5-moe-a2.7b-chat_gsm8k_layer0_vllm.jsonl.xz": "GSM8K",
}


NAMES = {
    "mistral": "Mixtral-8x7B",
    "olmoe": "OLMoE-1B-7B",
    "olmoe-sft": "OLMoE-1B-7B-SFT",
    "olmoe-dpo": "OLMoE-1B-7B-DPO",
}


def traces(folder: Path) -> Iterator[tuple[str, str, RoutingTrace]]:
    """Name, text and trace of each model; a step is a domain or a window."""
    for file, text in FILES.items():
        for name, trace in read_traces(folder / file).items():
            yield NAMES.get(name, name.rpartition("/")[2]), text, windowed(trace)


def windowed(trace: RoutingTrace) -> RoutingTrace:
    """The trace in windows of tokens, the last of which is whole; as it is where tokens are not known."""
    if trace.expert_NLK is None:
        return trace
    whole_NLK = trace.expert_NLK[: len(trace.expert_NLK) // WINDOW * WINDOW]
    experts = trace.counts_SLE.shape[2]
    counts = [
        [np.bincount(chosen_NK.ravel(), minlength=experts) for chosen_NK in window_NLK.swapaxes(0, 1)]
        for window_NLK in np.split(whole_NLK, len(whole_NLK) // WINDOW)
    ]
    return RoutingTrace(np.array(counts, dtype=np.int64), trace.header)


def row_of(name: str, text: str, trace: RoutingTrace, index: int) -> dict[str, Any]:
    """The figures of one layer of the trace."""
    count_SE = trace.counts_SLE[:, index]
    experts = count_SE.shape[1]
    figures = {
        "gini": gini(count_SE),
        "most / mean": 1 + max_violation(count_SE),
        "slower %": np.array([slower(count_E, trace.header["k"]) for count_E in count_SE]),
    }
    row: dict[str, Any] = {
        "model": name,
        "text": text,
        "layer": trace.header["layers"][index],
        "experts": experts,
        "samples": len(count_SE),
        "pooled gini": float(gini(count_SE.sum(axis=0))),
    }
    for label, value_S in figures.items():
        row[label], row[f"{label} +-"] = float(value_S.mean()), half_width(value_S.tolist())
    return {**row, "gpus": GPUS[experts]}


def slower(count_E: Counts, k: int) -> float:
    """Percent by which an exchange with this load takes longer than an even one."""
    experts = len(count_E)
    [row] = simulate(
        RoutingTrace(count_E[None, None], {"k": k}),
        TwoLevel("h100"),
        Contiguous(),
        gpus=[GPUS[experts]],
        hidden_size=HIDDEN_SIZE[experts],
    )
    return 100 * (row.slowdown - 1)


@click.command(help=__doc__)
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that holds `moe_traces`.",
)
@json_option
def main(data: Path, as_json: bool) -> None:
    rows = [
        row_of(name, text, trace, index)
        for name, text, trace in traces(data / "moe_traces")
        for index in range(trace.counts_SLE.shape[1])
    ]
    finish("public_traces", rows, [], as_json)


if __name__ == "__main__":
    main()
