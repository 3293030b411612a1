"""`torch.compile` of layers, each compiled in its first pass.

Experts stay as they are: their rows are sorted by a choice that no graph knows, and PyTorch 2.13 cannot trace its own
grouped product in fp32. Everything around them is compiled.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.moe_core.frozen_base.adapters import standing_in
from penstock.moe_core.layers.experts import Experts

SETTING = "train.compile_layers"
RECOMPILATIONS = 8  # of a layer: PyTorch's own limit, which it counts over all layers, as they share their code


@dataclass(frozen=True, slots=True)
class Compiled:
    """Makes the forward of a layer a compiled one, the same in all passes."""

    layers: Sequence[nn.Module]
    forwards: dict[nn.Module, Callable[..., Any]] = field(default_factory=dict[nn.Module, Callable[..., Any]])

    def __call__(self, layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        if layer not in self.forwards:
            self.forwards[layer] = torch.compile(forward)
        return self.forwards[layer]

    @contextmanager
    def around(self) -> Iterator[None]:
        """What a pass needs around all layers."""
        with ExitStack() as stack:
            uncompiled = cast(Any, torch.compiler.disable(Experts.forward))
            for layer in self.layers:
                for experts in (module for module in layer.modules() if isinstance(module, Experts)):
                    stack.enter_context(standing_in(experts, types.MethodType(uncompiled, experts)))
            stack.enter_context(_recompilations(RECOMPILATIONS * len(self.layers)))
            yield


def _recompilations(limit: int) -> Any:
    """Beyond the limit PyTorch stops to compile, in silence."""
    from torch._dynamo import config

    return cast(Any, config).patch(recompile_limit=limit, accumulated_recompile_limit=max(256, limit))


def require_compiler(device: torch.device) -> None:
    """Compiles a line; raises `ProblemError` if this machine cannot."""
    try:
        torch.compile(_a_line)(torch.ones(2, device=device))
    except Exception as error:  # of a compiler that is missing, too old, or cannot write its files
        reason = str(error).strip().splitlines()[0]
        what = f"layers cannot be compiled for device '{device.type}' ({reason})"
        fix = "install a C++ compiler such as g++ (for a GPU: triton), or set it to false"
        raise ProblemError(Problem("no-compiler", what, SETTING, fix), ExitCode.FAILED) from error


def _a_line(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + x
