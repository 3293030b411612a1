"""What the bits of a run depend on besides its config: the processor, torch, and how torch computes."""

from __future__ import annotations

from typing import Any

import torch

from penstock.hooks.atomic import read_json, write_json
from penstock.run.directory import RunDirectory, processor


def numerics(device: torch.device) -> dict[str, Any]:
    """A sum of floats depends on its order, and the order on each of these."""
    return {
        "processor": processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torch_build": torch.__config__.show(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def record_numerics(run: RunDirectory, device: torch.device) -> dict[str, tuple[Any, Any]]:
    """Completes `environment.json` when a run begins. When it is resumed, returns what differs from then as
    {name: (then, now)} and leaves the file as it was written at the start."""
    path = run.path / "environment.json"
    environment, now = read_json(path), numerics(device)
    if "torch_build" not in environment:
        write_json(path, {**environment, **now})
        return {}
    return {name: (environment.get(name), value) for name, value in now.items() if environment.get(name) != value}
