"""Presets of common GPU networks, with the source of every figure.

Measured figures are preferred to data sheets, because no collective reaches a data sheet: NVLink of an H100 is sold as
450 GB/s per direction, but NCCL's all-to-all gets 315. Bandwidths are bytes/s of one GPU in one direction; latencies
are seconds until the first byte of a collective arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from penstock.hooks.problems import Problem, ProblemError, did_you_mean

HardwareName = Literal["h800", "h100", "h200", "a100", "gb200-nvl72", "l40s-pcie"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and its source; `measured` is False for a number from a data sheet."""

    value: float
    source: str
    measured: bool = True


@dataclass(frozen=True, slots=True)
class Hardware:
    """A two-level network: `gpus_per_node` GPUs share NVLink (or PCIe), and each has one network port between nodes.

    Bandwidths in bytes/s per GPU and direction, latencies in seconds per collective.
    """

    name: str
    gpus_per_node: int
    inside_bandwidth: Figure
    inside_latency: Figure
    between_bandwidth: Figure
    between_latency: Figure


_AICONFIGURATOR = "github.com/ai-dynamo/aiconfigurator, NCCL all-to-all table"
_DEEPEP_V1 = "github.com/deepseek-ai/DeepEP docs/legacy.md"


def _nccl_bandwidth(gpus: int, buffer_bytes: int, microseconds: float) -> Figure:
    """In an all-to-all of `buffer_bytes` per GPU, 1/gpus of the bytes stay on their GPU."""
    sent = buffer_bytes * (gpus - 1) / gpus
    return Figure(
        float(f"{sent / (microseconds * 1e-6):.3g}"),
        f"{_AICONFIGURATOR}: {gpus} GPUs, {buffer_bytes} bytes each in {microseconds:g} us",
    )


def _nccl_latency(microseconds: float) -> Figure:
    return Figure(microseconds * 1e-6, f"{_AICONFIGURATOR}: 8 GPUs, 512 bytes each")


_NETWORK_LATENCY = Figure(
    22.4e-6, "NCCL tuning constants (src/graph/tuning.cc): 8.4 us base + 14.0 us network hop, ring, Simple protocol"
)
_CONNECTX7_MEASURED = Figure(
    46.7e9,
    "aiconfigurator, DeepEP low-latency combine on 8 nodes of 8 H100 through SGLang 0.5.6: "
    "12.85 MB more between 128 and 256 tokens take 274.8 us more",
)

_PRESETS = (
    Hardware(
        "h800",
        8,
        inside_bandwidth=Figure(160e9, f"{_DEEPEP_V1}: H800, ~160 GB/s NVLink maximum bandwidth"),
        inside_latency=Figure(7.4e-6, f"{_nccl_latency(7.4).source}, on H100: the same NVLink generation, fewer links"),
        between_bandwidth=Figure(50e9, f"{_DEEPEP_V1}: ConnectX-7 400 Gb/s, ~50 GB/s maximum bandwidth"),
        between_latency=_NETWORK_LATENCY,
    ),
    Hardware(
        "h100",
        8,
        inside_bandwidth=_nccl_bandwidth(8, 536_870_912, 1490),
        inside_latency=_nccl_latency(7.4),
        between_bandwidth=_CONNECTX7_MEASURED,
        between_latency=_NETWORK_LATENCY,
    ),
    Hardware(
        "h200",
        8,
        inside_bandwidth=_nccl_bandwidth(8, 536_870_912, 1510),
        inside_latency=_nccl_latency(11.6),
        between_bandwidth=Figure(
            _CONNECTX7_MEASURED.value, f"{_CONNECTX7_MEASURED.source}; an HGX H200 has the same ports"
        ),
        between_latency=_NETWORK_LATENCY,
    ),
    Hardware(
        "a100",
        8,
        inside_bandwidth=_nccl_bandwidth(8, 536_870_912, 2314),
        inside_latency=_nccl_latency(15.8),
        between_bandwidth=Figure(
            25e9, "NVIDIA DGX A100 data sheet: one ConnectX-6 200 Gb/s per GPU, line rate", measured=False
        ),
        between_latency=_NETWORK_LATENCY,
    ),
    Hardware(
        "gb200-nvl72",
        72,
        inside_bandwidth=Figure(
            635e9,
            "github.com/deepseek-ai/DeepEP README (V2): SM100, 8 GPUs, dispatch 726 GB/s with the GPU's own share; "
            "7/8 of it leaves the GPU",
        ),
        inside_latency=Figure(
            13.0e-6, "aiconfigurator, TensorRT-LLM NVLinkTwoSided dispatch on GB200: 2 GPUs, 64 tokens each"
        ),
        between_bandwidth=Figure(
            50e9, "NVIDIA DGX GB200 data sheet: one ConnectX-7 400 Gb/s per GPU, line rate", measured=False
        ),
        between_latency=_NETWORK_LATENCY,
    ),
    Hardware(
        "l40s-pcie",
        8,
        inside_bandwidth=_nccl_bandwidth(8, 536_870_912, 238_056),
        inside_latency=_nccl_latency(12.0),
        between_bandwidth=Figure(
            25e9,
            "NVIDIA Enterprise Reference Architecture, PCIe Optimized 2-8-5-200: 200 Gb/s per GPU, line rate",
            measured=False,
        ),
        between_latency=_NETWORK_LATENCY,
    ),
)

HARDWARE: Mapping[str, Hardware] = MappingProxyType({preset.name: preset for preset in _PRESETS})


def named(name: str, where: str) -> Hardware:
    """The preset of that name; raises `ProblemError` with the nearest name if it is unknown."""
    if name not in HARDWARE:
        what = f"unknown hardware '{name}'"
        raise ProblemError(Problem("unknown-hardware", what, where, did_you_mean(name, HARDWARE)))
    return HARDWARE[name]
