"""Caches the output of the frozen layers before the first one with experts: it is the same in every pass over the same
tokens.

Shape suffixes: B batch, S sequence, D model width.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from penstock.moe_core.frozen_base.adapters import standing_in
from penstock.moe_core.layers.routed_rows import RoutedRows


class Prefix:
    """Remembers what the last of some layers returned for the tokens of a pass, so that the next pass over them starts
    at `following`, the next layer.

    The output is kept if the pass shows that a later one needs nothing else from these layers (see `_Chain`); otherwise
    they are computed again. It takes [B, S, D] per batch of tokens.
    """

    def __init__(self, layers: Sequence[nn.Module], following: nn.Module) -> None:
        self._layers, self._following = list(layers), following
        self._known: list[tuple[Tensor, Any]] = []

    def over(self, token_BS: Tensor) -> AbstractContextManager[None]:
        """Context for one pass over the tokens."""
        for known_BS, output in self._known:
            if torch.equal(known_BS, token_BS):
                return self._left_out(output)
        return self._watched(token_BS)

    @contextmanager
    def _left_out(self, output: Any) -> Iterator[None]:
        """The last layer returns a copy of its stored output, because that may be written to. The others return NaN, so
        that an undetected reader gets NaN instead of a wrong number."""

        def return_nothing(hidden_BSD: Tensor, *_: Any, **__: Any) -> Any:
            return _in_form(output, torch.full_like(hidden_BSD, torch.nan))

        def return_copy(*_: Any, **__: Any) -> Any:
            return _in_form(output, _hidden(output).clone())

        with ExitStack() as stack:
            for layer in self._layers[:-1]:
                stack.enter_context(standing_in(layer, return_nothing))
            stack.enter_context(standing_in(self._layers[-1], return_copy))
            yield

    @contextmanager
    def _watched(self, token_BS: Tensor) -> Iterator[None]:
        chain = _Chain(len(self._layers))
        with ExitStack() as stack:
            for number, layer in enumerate((*self._layers, self._following)):
                stack.enter_context(standing_in(layer, chain.watching(number, layer.forward)))
            yield
        if chain.whole:
            self._known.append(
                (token_BS.clone(), chain.kept)
            )  # the caller may load the next tokens into the same memory


class _Chain:
    """Whether what each layer of a pass returns goes to the next layer and nowhere else.

    Each is called once and in order; its first argument is what the one before it returned, or the first item of that;
    nothing else keeps a reference to it; the other items go to no layer; and no argument, such as a cache, lets layers
    pass state to each other.
    """

    def __init__(self, length: int) -> None:
        self.kept: Any = None
        self._length, self._calls, self._broken = length, 0, False
        self._handed: Tensor | None = None
        self._rest: list[Any] = []
        self._earlier: list[weakref.ref[Tensor]] = []

    @property
    def whole(self) -> bool:
        return not self._broken and self._calls == self._length + 1

    def watching(self, number: int, own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*arguments: Any, **more: Any) -> Any:
            self._enter(number, arguments[:1], (*arguments[1:], *more.values()))
            output = own(*arguments, **more)
            if number < self._length:
                self._leave(number, output)
            return output

        return forward

    def _enter(self, number: int, first: tuple[Any, ...], others: tuple[Any, ...]) -> None:
        in_order = number == self._calls and len(first) == 1 and (number == 0 or first[0] is self._handed)
        passed_on = any(each is item for each in others for item in self._rest if item is not None)
        self._calls += 1
        self._broken |= not in_order or passed_on or not all(map(_is_plain, others))
        if number == self._length:
            held = (reference() for reference in self._earlier)
            self._broken |= any(each is not None and each is not self._handed for each in held)
        self._handed, self._rest = None, []

    def _leave(self, number: int, output: Any) -> None:
        hidden, *rest = output if isinstance(output, tuple) else (output,)
        if not isinstance(hidden, Tensor):
            self._broken = True
            return
        self._handed, self._rest = hidden, rest
        if number < self._length - 1:
            self._earlier.append(weakref.ref(hidden))
        else:
            self.kept = _in_form(output, hidden.clone())


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _in_form(output: Any, hidden_BSD: Tensor) -> Any:
    """Rebuilds the layer's return value around these hidden states; unused tuple items become None."""
    return (hidden_BSD, *(None for _ in output[1:])) if isinstance(output, tuple) else hidden_BSD


def _is_plain(argument: Any) -> bool:
    if isinstance(argument, tuple):
        return all(map(_is_plain, argument))
    return argument is None or isinstance(argument, (Tensor, int, float, str, RoutedRows))
