"""Predictions from the published figures of each machine, beside what was measured on it. Nothing is fitted here.

The bounds are the errors of this model as measured, with little room: a change that makes the model worse fails, one
that makes it better should tighten them, and the README's table with them.
"""

import csv
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.netsim.topology import TwoLevel


def rows_of(name: str) -> list[dict[str, str]]:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no measurements to compare with")
    path = Path(os.environ["PENSTOCK_DATA"]) / "comm" / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def relative_errors(title: str, topology: TwoLevel, cases: list[tuple[str, int, float, float]]) -> np.ndarray:
    """Prints each (label, gpus, bytes a GPU, measured us) and returns predicted / measured - 1."""
    errors = []
    sys.stdout.write(f"\n{title}\n")
    for label, gpus, sent, measured in cases:
        predicted = topology.all_to_all_seconds(np.full((gpus, gpus), sent / gpus)) * 1e6
        errors.append(predicted / measured - 1)
        sys.stdout.write(
            f"  {label:28} measured {measured:9.1f} us  predicted {predicted:9.1f} us  {errors[-1]:+7.1%}\n"
        )
    mean = np.abs(errors).mean()
    sys.stdout.write(f"  mean absolute error {mean:.1%}, largest {np.abs(errors).max():.1%}\n")
    return np.array(errors)


def deepep_cases(version: str) -> list[tuple[str, int, float, float]]:
    return [
        (f"EP{row['ep']} {row['phase']}", int(row["ep"]), float(row["bytes_per_gpu"]), float(row["latency_us"]))
        for row in rows_of("deepep_low_latency_h800.csv")
        if row["kernel_version"].startswith(version)
    ]


def test_deepep_low_latency_of_june_2025_between_nodes():
    cases = [case for case in deepep_cases("2025-06") if case[1] > 8]
    errors = relative_errors("DeepEP low latency 2025-06, H800, 2 to 8 nodes", TwoLevel("h800"), cases)
    assert np.abs(errors).mean() < 0.13
    assert np.abs(errors).max() < 0.18


def test_deepep_low_latency_of_june_2025_inside_a_node():
    cases = [case for case in deepep_cases("2025-06") if case[1] == 8]
    errors = relative_errors("DeepEP low latency 2025-06, H800, one node", TwoLevel("h800"), cases)
    assert np.abs(errors).max() < 0.38


def test_deepep_low_latency_of_february_2025_which_used_the_network_inside_nodes_too():
    topology = TwoLevel("h800", gpus_per_node=1)
    errors = relative_errors("DeepEP low latency 2025-02, H800, all by RDMA", topology, deepep_cases("2025-02"))
    assert np.abs(errors).mean() < 0.12
    assert np.abs(errors).max() < 0.16


@pytest.mark.parametrize(("nodes", "mean"), [((1,), 0.34), ((2, 4, 8), 0.05)], ids=["one-node", "between-nodes"])
def test_deepep_through_sglang_on_h100(nodes, mean):
    element_bytes = {"dispatch": 1 + 4 / 128, "combine": 2}  # FP8 with a scale for every 128 elements; BF16
    cases = [
        (
            f"{row['nodes']} nodes, {row['tokens_per_gpu']} tokens {row['phase']}",
            8 * int(row["nodes"]),
            int(row["tokens_per_gpu"]) * 8 * 7168 * element_bytes[row["phase"]],
            float(row["latency_us"]),
        )
        for row in rows_of("sglang_deepep_low_latency_h100.csv")
        if int(row["nodes"]) in nodes
    ]
    errors = relative_errors(f"DeepEP low latency through SGLang, H100, nodes {nodes}", TwoLevel("h100"), cases)
    assert np.abs(errors).mean() < mean


@pytest.mark.parametrize(
    ("system", "preset", "mean"),
    [("H100", "h100", 0.15), ("H200", "h200", 0.06), ("A100", "a100", 0.08), ("L40S", "l40s-pcie", 0.2)],
)
def test_nccl_all_to_all_of_eight_gpus(system, preset, mean):
    cases = [
        (f"{row['bytes']} bytes", 8, float(row["bytes"]), float(row["latency_us"]))
        for row in rows_of("nccl_alltoall_single_node.csv")
        if row["system"] == system and row["gpus"] == "8"
    ]
    errors = relative_errors(f"NCCL all-to-all, 8 x {system}", TwoLevel(preset), cases)
    assert np.abs(errors[-1]) < 0.01  # the preset's bandwidth comes from this row
    assert np.abs(errors).mean() < mean
