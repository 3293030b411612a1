"""Which function of its logits a router of transformers scores experts by.

Its output cannot tell: with one expert a token, or with a gate of zeros, sigmoid and softmax give the same weights. So
a copy of the module is run once, when the model is built, and the operations that it calls are watched; which ones they
are depends on the module's class and config alone, never on its weights. Where that fails, every pass is examined
anew, and nothing is kept.

Shape suffixes: T tokens, K experts per token, E experts, D model width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

ScoreRule = Callable[[Tensor], Tensor]


class _Watch(TorchDispatchMode):
    """Notes which score functions are applied to a tensor with one column per expert, or, for the softmax, to any."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").split(".")[0].strip("_")
        by_expert = isinstance(output, Tensor) and output.shape[-1:] == (self.experts,)
        if name == "softmax" or (name in ("sigmoid", "softplus") and by_expert):
            self.seen.add(name)
        return output


@torch.no_grad()
def observed_rule(module: nn.Module, experts: int, hidden_size: int) -> ScoreRule | None:
    """The score rule of a router module, on any device; None if the copy does not run, or applies none of the known
    functions or several. A softmax over the chosen experts alone, as in gpt-oss, counts as a softmax over all."""
    if experts < 2:
        return softmax  # all scores are 1, whatever the module calls
    seen = _seen(module, experts, (2, hidden_size)) or _seen(module, experts, (1, 2, hidden_size))
    rules = {"sigmoid": torch.sigmoid, "softmax": softmax, "softplus": sqrtsoftplus}
    return rules[seen.pop()] if len(seen) == 1 else None


def _seen(module: nn.Module, experts: int, shape: tuple[int, ...]) -> set[str]:
    """The score functions that the module calls for hidden states of a shape; empty if it does not run."""
    try:
        with torch.device("cpu"), _Watch(experts) as watch:
            plain = plain_copy(module)
            plain(torch.zeros(shape), *(torch.zeros(experts) for _ in further_arguments(plain)))
    except Exception:  # of a module that wants more than hidden states, or that does not run with zeros
        return set()
    return watch.seen


def further_arguments(module: nn.Module) -> list[str]:
    """What a router needs besides hidden states: its selection bias, where another module holds that."""
    _, *others = inspect.signature(module.forward).parameters.values()
    return [each.name for each in others if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]


def plain_copy(module: nn.Module) -> nn.Module:
    """A copy on the CPU with zeros for weights and without hooks."""
    plain = copy.deepcopy(module).to_empty(device="cpu").float().eval()
    for each in plain.modules():
        each._forward_hooks.clear()
        each._forward_pre_hooks.clear()
    for tensor in (*plain.parameters(), *plain.buffers()):
        tensor.zero_()
    return plain


@torch.no_grad()
def fitting_rule(logits_TE: Tensor, expert_TK: Tensor, weight_TK: Tensor) -> ScoreRule:
    """The sigmoid if a token's weights are proportional to its sigmoids (DeepSeek-V3 and relatives), else the softmax
    over experts, which transformers' own balancing loss uses for every family. True of these tokens only."""

    def misfit(score_TE: Tensor) -> float:
        chosen_TK = score_TE.gather(-1, expert_TK)
        share_TK = [each / each.sum(dim=-1, keepdim=True) for each in (chosen_TK, weight_TK)]
        return (share_TK[0] - share_TK[1]).abs().max().item()

    sigmoid = misfit(logits_TE.sigmoid()) if expert_TK.numel() and expert_TK.shape[-1] > 1 else torch.inf
    fits = sigmoid < 0.01 and sigmoid < misfit(logits_TE.softmax(dim=-1))
    return torch.sigmoid if fits else softmax


def softmax(logits_TE: Tensor) -> Tensor:
    return logits_TE.softmax(dim=-1)


def sqrtsoftplus(logits_TE: Tensor) -> Tensor:
    return F.softplus(logits_TE).sqrt()
