"""The routers inside a transformers model: where they are, and how to read their outputs.

transformers itself declares which modules are routers, for `output_router_logits`. Most of them return logits, weights
and chosen experts, in an order that changed between versions, so outputs are identified by dtype and shape.

Shape suffixes: T tokens, K experts per token, E experts, D model width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from penstock.hooks.contracts import Routing
from penstock.hooks.problems import Problem, ProblemError
from penstock_hf_models.scores import ScoreRule, fitting_rule, further_arguments, observed_rule, plain_copy


@dataclass(slots=True)
class RouterSite:
    """A router module of a model. As a `penstock.hooks.contracts.ReplaceableRouter` it chooses experts for hidden
    states, shows the bias of routers that have one, which a balancer may change, and lets the model compute another
    choice. Without a `score_rule`, the scores of every pass are examined."""

    name: str
    layer: int
    module: nn.Module
    logits_index: int
    score_rule: ScoreRule | None = None

    @property
    def k(self) -> int:
        return int(getattr(self.module, "top_k"))  # noqa: B009 (a module's attributes have no type)

    @property
    def experts(self) -> int:
        declared = getattr(self.module, "num_experts", None)
        return int(declared if declared is not None else next(self.module.parameters()).shape[0])

    @property
    def e_score_correction_bias(self) -> Tensor | None:
        return getattr(self.module, "e_score_correction_bias", None)

    def __call__(self, hidden_TD: Tensor) -> Routing:
        routing = self.read(self.module(hidden_TD))
        if routing is None:
            raise TypeError(f"{type(self.module).__name__} does not return its choice")
        return routing

    @contextmanager
    def replacing(self, change: Callable[[Routing], Routing]) -> Iterator[None]:
        """Within this context, the module returns `change(routing)` instead of its own choice, in its own format. Rows
        are all positions, including padding. Raises `ProblemError` in the forward pass of a module that does not return
        its choice."""

        def replaced(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            routing = self.read(output)
            if routing is None:
                raise ProblemError(unreadable(self))
            changed = change(routing)
            return None if changed is routing else self._rewritten(output, changed)

        handle = self.module.register_forward_hook(replaced)
        try:
            yield
        finally:
            handle.remove()

    def read(self, output: Any) -> Routing | None:
        """The routing in the module's output, or None if it does not say which experts were chosen."""
        found = self._found(output)
        if found is None:
            return None
        logits_TE, expert_TK, weight_TK = (each.flatten(0, -2) for each in found)
        logits_TE, weight_TK, expert_TK = logits_TE.float(), weight_TK.float(), expert_TK.long()
        rule = self.score_rule or fitting_rule(logits_TE, expert_TK, weight_TK)
        return Routing(expert_TK, weight_TK, logits_TE, rule(logits_TE))

    def chosen(self, output: Any) -> Tensor | None:
        """Only the experts [T, K] of `read`, without scores: examining the scores waits for the device."""
        found = self._found(output)
        return None if found is None else found[1].flatten(0, -2)

    def _found(self, output: Any) -> tuple[Tensor, Tensor, Tensor] | None:
        """Logits, chosen experts and their weights, as returned by the module."""
        match output:
            case (Tensor() as order, _, Tensor() as weight, list() as sizes, Tensor() as logits_TE):
                return logits_TE, *_ungrouped(order, weight, sizes, self.k)
            case (Tensor() as score_TE, Tensor() as logits_TE) if score_TE.shape == logits_TE.shape:
                # llama4: scores of the chosen, 0 for the others, with which a score that underflowed would tie.
                expert_TK = score_TE.topk(self.k, dim=-1).indices
                return logits_TE, expert_TK, score_TE.gather(-1, expert_TK)
            case tuple() if len(output) > self.logits_index:
                return self._found_by_type(output[self.logits_index], output)
            case _:
                return None

    def _rewritten(self, output: Any, routing: Routing) -> Any:
        """What the module would have returned for `routing`."""
        expert_TK, weight_TK = routing.expert_TK, routing.weight_TK
        match output:
            case (Tensor() as order, tokens, Tensor() as weight, list(), Tensor() as logits_TE):
                order_N, weight_N, sizes_E = _grouped(expert_TK, weight_TK, self.experts)
                token_N = (order_N // self.k).to(tokens.dtype)
                return order_N.to(order.dtype), token_N, weight_N.to(weight.dtype), sizes_E, logits_TE
            case (Tensor() as score_TE, Tensor() as logits_TE):
                return torch.zeros_like(score_TE).scatter(-1, expert_TK, weight_TK.to(score_TE.dtype)), logits_TE
        found = self._found(output)
        assert found is not None  # it was read
        now = {id(old): new for old, new in zip(found[1:], (expert_TK, weight_TK), strict=True)}
        return tuple(now[id(old)].view_as(old).to(old.dtype) if id(old) in now else old for old in output)

    def _found_by_type(self, logits_TE: Any, output: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor] | None:
        tensors = [each for each in output if isinstance(each, Tensor) and each is not logits_TE]
        chosen = [each for each in tensors if not each.is_floating_point() and each.shape[-1] == self.k]
        if not isinstance(logits_TE, Tensor) or len(chosen) != 1:
            return None
        weights = [each for each in tensors if each.is_floating_point() and each.shape == chosen[0].shape]
        return (logits_TE, chosen[0], weights[0]) if weights else None


def router_sites(model: nn.Module) -> list[RouterSite]:
    """Every router that transformers declares in `model` and that says how many experts it takes, in module order."""
    found: dict[str, RouterSite] = {}
    for prefix, network in model.named_modules():
        if isinstance(network, PreTrainedModel):
            specs = (getattr(network, "_can_record_outputs", None) or {}).get("router_logits", [])
            for spec in specs if isinstance(specs, list) else [specs]:
                for name, module in network.named_modules(prefix=prefix):
                    if _declared(spec, name, module) and isinstance(getattr(module, "top_k", None), int):
                        found[name] = RouterSite(name, _layer(name), module, getattr(spec, "index", 1))
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    innermost = [name for name in found if not any(other.startswith(f"{name}.") for other in found)]
    return [found[name] for name in sorted(innermost, key=order.__getitem__)]


def observed(sites: list[RouterSite], hidden_size: int) -> list[RouterSite]:
    """The sites with the score rule of their modules."""
    return [replace(site, score_rule=observed_rule(site.module, site.experts, hidden_size)) for site in sites]


def warn_of_constant_weights(sites: list[RouterSite], hidden_size: int) -> None:
    """One warning for the routers whose weights are the same whatever they read: one expert per token, with weights
    that sum to 1. The text has no gradient for them."""
    constant = [site for site in sites if site.k == 1 and site.experts > 1 and _weights_are_constant(site, hidden_size)]
    if constant:
        kind = type(constant[0].module).__name__
        what = f"with one expert per token and weights that sum to 1, {kind} learns nothing from the text"
        fix = "set norm_topk_prob to false if its config has it, or use two experts per token"
        logging.getLogger("penstock").warning(f"{what}: {fix}")


@torch.no_grad()
def _weights_are_constant(site: RouterSite, hidden_size: int) -> bool:
    """Tried on a copy with random weights; False if the copy does not run."""
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.device("cpu"):
            module = plain_copy(site.module)
            for parameter in module.parameters():
                parameter.normal_(generator=generator)
            hidden_TD = torch.randn(16, hidden_size, generator=generator)
            shapes = (hidden_TD, hidden_TD[None])
            further = [torch.zeros(site.experts) for _ in further_arguments(module)]
            routing = next(filter(None, (_tried(replace(site, module=module), each, further) for each in shapes)), None)
    except Exception:  # of a module that cannot be copied
        return False
    return routing is not None and bool((routing.weight_TK - routing.weight_TK[0]).abs().max() < 1e-6)


def _tried(site: RouterSite, hidden: Tensor, further: list[Tensor]) -> Routing | None:
    try:
        return site.read(site.module(hidden, *further))
    except Exception:  # of a module that wants another shape
        return None


def one_a_layer(sites: list[RouterSite]) -> list[RouterSite]:
    """One router per layer. If a layer has two, as in JetMoe, that of its MLP, not that of its attention."""
    attention_first = sorted(sites, key=lambda site: "attention" not in site.name)
    return sorted({site.layer: site for site in attention_first}.values(), key=lambda site: site.layer)


def _declared(spec: Any, name: str, module: nn.Module) -> bool:
    target, within = getattr(spec, "target_class", spec), getattr(spec, "layer_name", None)
    return isinstance(target, type) and isinstance(module, target) and (not within or f".{within}." in f".{name}.")


def _layer(name: str) -> int:
    """The layer's index, which is the first number in the name of a module."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


@contextmanager
def watching(sites: list[RouterSite], see: Callable[[RouterSite, Any], None]) -> Iterator[None]:
    """Calls `see(site, output)` for every output of every router; the outputs are not changed."""
    with ExitStack() as stack:
        for site in sites:
            handle = site.module.register_forward_hook(lambda _module, _inputs, output, site=site: see(site, output))
            stack.callback(handle.remove)
        yield


@contextmanager
def collecting(sites: list[RouterSite]) -> Iterator[Mapping[int, Routing]]:
    """The routing of each layer for calls within the context, with gradient; filled when the context ends. Layers whose
    router cannot be read are left out."""
    routings: dict[int, Routing] = {}
    outputs: list[tuple[RouterSite, Any]] = []
    # Read after the pass: what is computed inside a checkpointed layer would have to be computed again in the backward.
    with watching(sites, lambda site, output: outputs.append((site, output))):
        yield routings
    for site, output in outputs:
        routing = site.read(output)
        if routing is not None:
            routings[site.layer] = routing


def _ungrouped(order_N: Tensor, weight_N: Tensor, sizes_E: list[int], k: int) -> tuple[Tensor, Tensor]:
    """JetMoe's assignments, which are sorted by expert, in token order: experts and weights [T, K]."""
    sizes = torch.tensor(sizes_E, device=order_N.device)
    expert_N = torch.repeat_interleave(torch.arange(len(sizes_E), device=order_N.device), sizes)
    position_N = order_N.argsort()
    return expert_N[position_N].view(-1, k), weight_N[position_N].view(-1, k)


def _grouped(expert_TK: Tensor, weight_TK: Tensor, experts: int) -> tuple[Tensor, Tensor, list[int]]:
    """The inverse of `_ungrouped`: the order of assignments by expert, their weights, and how many each expert has."""
    order_N = expert_TK.flatten().sort(stable=True).indices
    return order_N, weight_TK.flatten()[order_N], expert_TK.flatten().bincount(minlength=experts).tolist()


def unreadable(site: RouterSite) -> Problem:
    what = f"{type(site.module).__name__} does not return which experts it chose"
    return Problem("unreadable-router", what, site.name, "try a newer version of transformers")
