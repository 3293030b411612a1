"""Activation checkpointing: the layers of a model keep little for the backward pass, which computes the rest again.

The second computation has every bit of the first and leaves no trace:

- Random numbers are those of the first, dropout's included.
- What a layer writes to buffers is written once: an online router gathers what it learns from in its forward, and a
  second time would double its sums. The second computation works on copies that hold what the buffers held before.
- What stood in for the forward of a module inside the layer, such as the experts of a frozen base, stands in again.

Routings are returned by the first computation alone, so the load is counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from penstock.hooks.contracts import Model
from penstock.moe_core.frozen_base.adapters import standing_in

# Operators whose results "selective" keeps: products and attention, which take nearly all of the time of a layer. What
# lies between them (norms, activations, casts, copies into the order of the experts) is computed again, and so are
# batched products: they are the scores of all pairs where attention is written out, the largest activations of all.
KEPT = frozenset(
    {
        "aten::mm",
        "aten::addmm",
        "aten::_grouped_mm",
        "aten::_scaled_mm",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "mkldnn::_linear_pointwise",
    }
)

Buffer = tuple[nn.Module, str]


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """Makes a layer's forward a checkpointed one. `shared` are the modules that belong to no layer: the experts of a
    frozen base are, and yet run inside its layers."""

    shared: Sequence[nn.Module]
    selective: bool

    @classmethod
    def of(cls, model: Model, layers: Sequence[nn.Module], *, selective: bool) -> Checkpointed:
        assert isinstance(model, nn.Module)
        inside = {id(module) for layer in layers for module in layer.modules()}
        return cls([module for module in model.modules() if id(module) not in inside], selective)

    def __call__(self, layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def checkpointed(*arguments: Any, **more: Any) -> Any:
            again = Again.of(layer, self.shared)

            def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
                first, second = _selective_contexts() if self.selective else (nullcontext(), nullcontext())
                return first, again.within(second)

            # The second computation is checked against the first: tensors of other shapes or types raise.
            result = checkpoint(forward, *arguments, use_reentrant=False, context_fn=contexts, **more)
            again.keep_what_was_written()
            return result

        return checkpointed


def _selective_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return create_selective_checkpoint_contexts(_policy)


def _policy(_: SelectiveCheckpointContext, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    kept = operator.name().partition(".")[0] in KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


@dataclass(slots=True)
class Again:
    """What the second computation of a layer finds as the first one found it."""

    stood_in: Sequence[tuple[nn.Module, Callable[..., Any]]]
    before: dict[Buffer, tuple[Tensor, int, Tensor]]
    """Of each buffer: itself, its version, and a copy."""

    @classmethod
    def of(cls, layer: nn.Module, shared: Sequence[nn.Module]) -> Again:
        inside = list(layer.modules())
        stood_in = [(each, each.__dict__["forward"]) for each in inside[1:] if "forward" in each.__dict__]
        before = {
            (module, name): (buffer, buffer._version, buffer.detach().clone())
            for module in (*inside, *shared)
            for name, buffer in module.named_buffers(recurse=False)
        }
        return cls(stood_in, before)

    def keep_what_was_written(self) -> None:
        """Forgets the copies of buffers that the first computation left alone."""
        self.before = {
            (module, name): (buffer, version, copy)
            for (module, name), (buffer, version, copy) in self.before.items()
            if getattr(module, name) is not buffer or buffer._version != version
        }

    @contextmanager
    def within(self, context: AbstractContextManager[Any]) -> Iterator[None]:
        with ExitStack() as stack:
            for module, forward in self.stood_in:
                stack.enter_context(standing_in(module, forward))
            for (module, name), (_, _, copy) in self.before.items():
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, copy)
            stack.enter_context(context)
            yield
