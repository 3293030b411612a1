"""Adds routed experts to the layers of a model that was built without them.

Shape suffixes: B batch, S sequence, T = B*S tokens, N kept assignments, E experts, D model width, H expert width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from penstock.hooks.contracts import Router, Routing
from penstock.hooks.problems import Problem, ProblemError
from penstock.moe_core.layers.dispatch import combine, dispatch
from penstock.moe_core.layers.experts import Experts, sorted_rows
from penstock.moe_core.layers.routed_rows import RoutedRows

MLP_NAMES = ("mlp", "feed_forward", "ffn")
SWIGLU = ("gate_proj", "up_proj", "down_proj")


def decoder_layers(base: nn.Module) -> list[nn.Module]:
    """Returns the longest list of modules that all have an MLP: the decoder layers in order. Raises `ProblemError` if
    the model has no list like that."""
    lists = [list(module) for module in base.modules() if isinstance(module, nn.ModuleList) and len(module)]
    whole = [layers for layers in lists if None not in map(_mlp, layers)]
    if not whole:
        what = f"{type(base).__name__} has no list of layers that all have an MLP ({', '.join(MLP_NAMES)})"
        raise ProblemError(Problem("no-mlp", what, "model.base", "use a decoder whose layers have MLPs"))
    return max(whole, key=len)


def mlps_of_layers(base: nn.Module) -> list[nn.Module]:
    """The MLP of each of the `decoder_layers`."""
    return [mlp for layer in decoder_layers(base) if (mlp := _mlp(layer)) is not None]


def _mlp(layer: nn.Module) -> nn.Module | None:
    parts = (getattr(layer, name, None) for name in MLP_NAMES)
    return next((part for part in parts if isinstance(part, nn.Module)), None)


class RoutedExperts(nn.Module):
    """A router and its experts; computes in `x`'s dtype."""

    def __init__(self, gate: Router, experts: nn.Module) -> None:
        super().__init__()
        self.gate = gate
        self.experts = experts

    def forward(self, x_BSD: Tensor, layer: int, rows: RoutedRows) -> tuple[Tensor, Routing]:
        return rows.mixture(layer, self.gate, self.experts, x_BSD)


@contextmanager
def standing_in(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replaces a module's own forward by `forward`."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


@contextmanager
def adapted(
    mlps: Mapping[int, nn.Module],
    adapters: Mapping[int, RoutedExperts],
    rows: RoutedRows,
    *,
    beside: bool,
    dtype: torch.dtype,
) -> Iterator[dict[int, Routing]]:
    """Within this context, each MLP computes with its experts in a pass over `rows`; yields the routings by layer,
    which the pass fills.

    Modules are restored afterwards, so the base computes as before outside the context.
    """
    routings: dict[int, Routing] = {}

    def with_experts(layer: int, own: Callable[..., Any], experts: RoutedExperts) -> Callable[..., Any]:
        def forward(x_BSD: Tensor, *rest: Any, **more: Any) -> Any:
            out_BSD, routing = experts(x_BSD.to(dtype), layer, rows)
            routings.setdefault(layer, routing)  # activation checkpointing computes it again in the backward pass
            return _sum(own(x_BSD, *rest, **more), out_BSD) if beside else out_BSD.to(x_BSD.dtype)

        return forward

    with ExitStack() as stack:
        for layer, mlp in mlps.items():
            stack.enter_context(standing_in(mlp, with_experts(layer, mlp.forward, adapters[layer])))
        yield routings


def _sum(own: Any, added_BSD: Tensor) -> Any:
    """An MLP of experts may return more than its output."""
    if isinstance(own, tuple):
        return (_sum(own[0], added_BSD), *own[1:])
    return own + added_BSD.to(own.dtype)


def experts_from_zero(experts: int, hidden_size: int, expert_size: int) -> Experts:
    """SwiGLU experts that initially add nothing: the down projection is zero. The other matrices have a standard
    deviation of 1/sqrt(D), which preserves the scale of their input."""
    made = Experts(experts, hidden_size, expert_size)
    nn.init.normal_(made.gate_up_proj, std=hidden_size**-0.5)
    nn.init.zeros_(made.down_proj)
    return made


def copies_of(mlp: nn.Module, experts: int, where: str) -> nn.Module:
    """Experts that are copies of an MLP: stacked matrices for a SwiGLU, `Copies` for anything else. Raises
    `ProblemError` for an MLP whose output depends on more than its input."""
    needed = [
        parameter
        for parameter in inspect.signature(mlp.forward).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if len(needed) != 1 or hasattr(mlp, "experts"):
        what = f"{type(mlp).__name__} is not an MLP that can be copied into experts"
        fix = "remove the layer, or write `place: beside`"
        raise ProblemError(Problem("no-mlp", what, where, fix))
    matrices = _swiglu_matrices(mlp)
    if matrices is None:
        return Copies(mlp, experts)
    gate_HD, up_HD, down_DH = matrices
    made = Experts(experts, gate_HD.shape[1], gate_HD.shape[0])
    with torch.no_grad():
        made.gate_up_proj.copy_(torch.cat((gate_HD, up_HD)).expand_as(made.gate_up_proj))
        made.down_proj.copy_(down_DH.expand_as(made.down_proj))
    return made


def _swiglu_matrices(mlp: nn.Module) -> list[Tensor] | None:
    """Gate, up and down of a module that computes down(silu(gate(x)) * up(x)), which is verified by running it, if it
    has weights."""
    named = dict(mlp.named_parameters())
    if named.keys() != {f"{name}.weight" for name in SWIGLU}:
        return None
    gate_HD, up_HD, down_DH = (named[f"{name}.weight"].detach() for name in SWIGLU)
    if not gate_HD.is_meta:
        x_TD = torch.linspace(-2, 2, 3 * gate_HD.shape[1], device=gate_HD.device).view(3, -1)
        with torch.no_grad():
            expected = (nn.functional.silu(x_TD @ gate_HD.T) * (x_TD @ up_HD.T)) @ down_DH.T
            if not torch.allclose(mlp(x_TD), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
                return None
    return [gate_HD, up_HD, down_DH]


class Copies(nn.Module):
    """E copies of any MLP: its code with stacked parameters [E, ...], called once per expert."""

    def __init__(self, mlp: nn.Module, experts: int) -> None:
        super().__init__()
        self._code = (
            copy.deepcopy(mlp).eval().to("meta"),
        )  # in a tuple, so that its parameters are not registered here
        self._names = {name: name.replace(".", "_") for name, _ in mlp.named_parameters()}
        for name, parameter in mlp.named_parameters():
            stacked = parameter.detach().expand(experts, *parameter.shape).clone()
            self.register_parameter(self._names[name], nn.Parameter(stacked))
        self.experts = experts

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """Weighted sum of each token's kept experts, [T, D] in x's dtype; 0 if a token has none."""
        if len(x_TD) == 0:
            return x_TD + next(self.parameters())[:0].sum()  # no rows, but the weights still get a gradient
        rows = sorted_rows(routing, self.experts)
        token_N = rows.slot_N // routing.expert_TK.shape[1]
        x_ND = dispatch(x_TD, token_N, rows.position, rows.start_T)
        weights = [
            dict(zip(self._names, each, strict=True))
            for each in zip(*(getattr(self, name).unbind(0) for name in self._names.values()), strict=True)
        ]
        parts = zip(weights, x_ND.split(rows.counts_E.tolist()), strict=True)
        outputs = [functional_call(self._code[0], expert, (part,)) for expert, part in parts if len(part)]
        weight_N1 = routing.weight_TK.flatten().index_select(0, rows.slot_N).to(x_TD.dtype).unsqueeze(1)
        out_ND = torch.cat(outputs) * weight_N1 if outputs else x_ND
        return combine(out_ND, token_N, rows.position, rows.start_T)
