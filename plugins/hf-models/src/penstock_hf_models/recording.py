"""Records which experts a transformers model chooses, as a `RoutingTrace`.

    with record(model) as recording:
        model(input_ids, attention_mask=mask)
    recording.trace().save(Path("trace.npz"))

The routers' outputs are read and never changed, so logits are bit-identical with and without recording. Calls outside a
model's forward pass are not counted: activation checkpointing runs layers again in the backward pass.

Shape suffixes: B batch, S sequence or steps, T tokens, K experts per token, E experts, L routers, N counted tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from penstock.hooks.problems import Problem, ProblemError
from penstock.traces.accumulator import TraceAccumulator
from penstock.traces.trace import RoutingTrace
from penstock_hf_models.routing import RouterSite, router_sites, unreadable, watching


class Recording:
    """The choices so far. A step is one call of the model; rows are routers, in module order."""

    def __init__(self, network: PreTrainedModel, sites: list[RouterSite]) -> None:
        self.sites = sites
        self.config = network.config
        self._recorded = TraceAccumulator([site.layer for site in sites], sites[0].experts)
        self._step: dict[str, Tensor] = {}
        self._mask_BS: Tensor | None = None
        self._depth = 0

    @property
    def steps(self) -> int:
        return self._recorded.steps

    @property
    def counts_SLE(self) -> NDArray[np.int64]:
        return self._recorded.counts_SLE

    @property
    def counts_LE(self) -> NDArray[np.int64]:
        """Assignments over all steps."""
        return self._recorded.counts_LE

    @property
    def expert_NLK(self) -> NDArray[np.integer[Any]] | None:
        """The experts of each counted token; None if routers differ in K, because an array needs one K."""
        return self._recorded.expert_NLK

    def trace(self, **header: Any) -> RoutingTrace:
        """The recorded trace; `header` adds to the model's own metadata."""
        ks = [site.k for site in self.sites]
        described = {
            "model": self.config.name_or_path or self.config.model_type,
            "k": ks[0] if len(set(ks)) == 1 else ks,
            "routers": [site.name for site in self.sites],
            "hidden_size": getattr(self.config.get_text_config(), "hidden_size", None),
        }
        return self._recorded.trace(**{**described, **header})

    @torch.no_grad()
    def see(self, site: RouterSite, output: Any) -> None:
        """Counts what a router returned, if a model's forward pass is running."""
        if self._depth == 0:
            return
        expert_TK = site.chosen(output)
        if expert_TK is None:
            raise ProblemError(unreadable(site))
        if self._mask_BS is not None:
            expert_TK = expert_TK[_real(self._mask_BS, len(expert_TK))]
        self._step[site.name] = expert_TK

    def enter(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called before the forward pass of a transformers model; the outermost one begins a step."""
        self._depth += 1
        if self._depth == 1:
            given = inspect.signature(network.forward).bind_partial(*args, **kwargs).arguments
            self._mask_BS, self._step = _padding_mask(given), {}

    def leave(self, *_: Any) -> None:
        """Called after it, whether it returned or raised. A pass that used no router is not a step."""
        self._depth -= 1
        if self._depth == 0 and len(self._step) == len(self.sites):
            # Copied only now, and counted where they arrive: a copy or a count within the pass would wait for a GPU.
            self._recorded.add([self._step[site.name].to("cpu", torch.int32).numpy() for site in self.sites])


@contextmanager
def record(model: nn.Module) -> Iterator[Recording]:
    """Records the expert choices of a transformers model, or of a module that holds one, while the context lasts.

    Padding is left out if the model is called with a 2-D `attention_mask`. Raises `ProblemError` if the model has no
    experts, or has a router that does not return its choice.
    """
    networks = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    sites = router_sites(model)
    if not networks or not sites:
        what = f"{type(model).__name__} has no router that transformers declares and that returns its choice"
        raise ProblemError(Problem("no-experts", what, fix="record a mixture of experts, such as mixtral or qwen3_moe"))
    if len({site.experts for site in sites}) > 1:
        what = (
            f"its routers choose among {sorted({site.experts for site in sites})} experts, but a trace needs one number"
        )
        raise ProblemError(Problem("unequal-layers", what, type(model).__name__, "record its parts one at a time"))
    recording = Recording(networks[0], sites)
    with ExitStack() as stack:
        stack.enter_context(watching(sites, recording.see))
        for network in networks:
            before = network.register_forward_pre_hook(recording.enter, with_kwargs=True)
            stack.callback(before.remove)
            after = network.register_forward_hook(recording.leave, always_call=True)
            stack.callback(after.remove)
        yield recording


def _padding_mask(given: dict[str, Any]) -> Tensor | None:
    given = {**given, **given.get("kwargs", {})}
    mask = given.get("attention_mask")
    if mask is None or (isinstance(mask, Tensor) and mask.dim() == 2):
        return mask
    what = "padding cannot be read from an attention mask that is not [batch, sequence]"
    raise ProblemError(Problem("attention-mask", what, fix="call the model with a 2-D attention_mask while recording"))


def _real(mask_BS: Tensor, tokens: int) -> Tensor:
    """True for the tokens of this call that are not padding; with a cache the mask covers earlier tokens too."""
    return mask_BS[:, -(tokens // len(mask_BS)) :].flatten().bool()
