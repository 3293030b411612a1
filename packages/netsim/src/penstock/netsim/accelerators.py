"""Speed, memory and price of GPUs, with the source of every figure; their networks are the presets of `hardware`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from penstock.netsim.hardware import Figure

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One GPU: dense BF16 operations/s, bytes of memory, bytes/s to it and to the host, and dollars per hour.

    `matmul_share` and `expert_share` are the shares of the peak that large matmuls and grouped expert matmuls reach.
    """

    name: str
    peak: Figure
    memory: Figure
    memory_bandwidth: Figure
    host_bandwidth: Figure
    price: Figure | None
    matmul_share: Figure
    expert_share: Figure
    reserve: Figure


_MATMUL = Figure(
    0.70, "assumed: cuBLAS reaches 600 to 750 of an H100's 989 BF16 TFLOPS on large matrices", measured=False
)
_EXPERTS = Figure(
    0.55, "assumed: grouped matmuls of experts about 1,500 wide lose a fifth against large matmuls", measured=False
)
_RESERVE = Figure(
    6.0 * GIB, "assumed: CUDA context, buffers of NCCL and of the dispatcher, fragmentation", measured=False
)
_PCIE5 = Figure(64e9, "PCIe 5.0 x16, line rate", measured=False)
_PCIE4 = Figure(32e9, "PCIe 4.0 x16, line rate", measured=False)


def _sheet(value: float, source: str) -> Figure:
    return Figure(value, f"NVIDIA {source} data sheet", measured=False)


def _gpu(
    name: str, peak: Figure, memory: Figure, memory_bandwidth: Figure, host: Figure, price: Figure | None = None
) -> Accelerator:
    return Accelerator(name, peak, memory, memory_bandwidth, host, price, _MATMUL, _EXPERTS, _RESERVE)


_H100_PEAK = _sheet(989.5e12, "H100 SXM (1,979 TFLOPS BF16 with sparsity, half of it without)")
_H100_MEMORY = Figure(81_559 * 2**20, "nvidia-smi of an H100 80GB: 81,559 MiB")
_ALL = (
    _gpu(
        "h800",
        Figure(_H100_PEAK.value, f"{_H100_PEAK.source}; an H800 differs in NVLink and FP64", measured=False),
        Figure(_H100_MEMORY.value, f"{_H100_MEMORY.source}; an H800 has the same"),
        _sheet(3.35e12, "H100 SXM"),
        _PCIE5,
        Figure(2.0, "assumed by the DeepSeek-V3 technical report (arXiv 2412.19437), table 1", measured=False),
    ),
    _gpu("h100", _H100_PEAK, _H100_MEMORY, _sheet(3.35e12, "H100 SXM"), _PCIE5),
    _gpu("h200", _H100_PEAK, _sheet(141e9, "H200 SXM"), _sheet(4.8e12, "H200 SXM"), _PCIE5),
    _gpu("a100", _sheet(312e12, "A100"), _sheet(80e9, "A100 80GB SXM"), _sheet(2.039e12, "A100 80GB SXM"), _PCIE4),
    _gpu(
        "gb200-nvl72",
        _sheet(2500e12, "GB200 NVL72 (360 PFLOPS of 72 GPUs with sparsity, half of it without)"),
        _sheet(186e9, "GB200 NVL72 (13.4 TB of 72 GPUs)"),
        _sheet(8e12, "GB200 NVL72 (576 TB/s of 72 GPUs)"),
        _sheet(225e9, "GB200 (NVLink-C2C of 450 GB/s per direction for two GPUs)"),
    ),
    _gpu(
        "l40s-pcie",
        _sheet(362e12, "L40S (733 TFLOPS with sparsity)"),
        _sheet(48e9, "L40S"),
        _sheet(864e9, "L40S"),
        _PCIE4,
    ),
)

ACCELERATORS: Mapping[str, Accelerator] = MappingProxyType({each.name: each for each in _ALL})
