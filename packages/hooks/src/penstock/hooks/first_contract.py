"""Architectures of contract 1, whose models read a tensor of tokens and know no `Inputs`."""

from __future__ import annotations

from typing import Any, cast

from penstock.hooks.contracts import Inputs, LossOutput, ModelOutput, Tensor


class _ReadsTokens:
    """Put before a model's own class: passes tokens on, and refuses by name whatever else is known of them."""

    def __call__(self, inputs: Inputs | Tensor, **options: Any) -> ModelOutput:
        parent: Any = super()
        return parent.__call__(_tokens(self, inputs), **options)

    def next_token_loss(self, inputs: Inputs | Tensor, *rest: Any, **more: Any) -> LossOutput:
        parent: Any = super()
        return parent.next_token_loss(_tokens(self, inputs), *rest, **more)

    def generate(self, inputs: Inputs | Tensor, **options: Any) -> Tensor:
        parent: Any = super()
        return parent.generate(_tokens(self, inputs), **options)

    def new_cache(self, batch: int, capacity: int) -> Any:
        """None where the model has no method of this name, which the first contract did not ask for."""
        parent: Any = super()
        return parent.new_cache(batch, capacity) if hasattr(parent, "new_cache") else None


def reading_tokens(model: Any) -> Any:
    """The same object, called as contract 2 calls models: `Inputs` of tokens alone are passed on as their tensor."""
    own = cast(Any, type(model))
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    model.__class__ = type(own.__name__, (_ReadsTokens, own), names)
    return model


def _tokens(model: object, inputs: Inputs | Tensor) -> Tensor:
    read = Inputs.of(inputs)
    read.require_only(f"{type(model).__name__}, an architecture of contract 1,")
    return read.token_BS
