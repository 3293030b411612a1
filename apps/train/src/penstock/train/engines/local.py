"""The engine: who holds the parameters, computes gradients and takes steps. `LocalEngine` is one process.

The loop speaks to nothing else, so an engine that shards (DeepSpeed, FSDP) takes this one's place without a change to
the loop: backward, step, and state in and out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import Schedule


class LocalEngine:
    """One process, one device."""

    rank, ranks = 0, 1

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Schedule, gradient_clip: float | None
    ) -> None:
        self.model, self.optimizer, self.schedule, self.gradient_clip = model, optimizer, schedule, gradient_clip
        self.settings = [_without_parameters(group) for group in optimizer.param_groups]

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a micro-batch's share of the objective: gradients are summed over ranks, too."""
        loss.backward()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over ranks."""
        return tensor

    def clip(self) -> float:
        """Clips the gradient; returns its norm before that."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        value = norm.item()
        if self.gradient_clip is not None and value > self.gradient_clip:  # else a pass over all gradients for nothing
            torch.nn.utils.clip_grads_with_norm_(parameters, self.gradient_clip, norm)
        return value

    def step(self, progress: float) -> dict[str, float]:
        """Sets the learning rate for this point of the run, steps, and clears the gradients."""
        factor = self.schedule(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "learning_rate_factor": factor,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs beside the weights. `settings` are the optimizer's as the config gave them."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "settings": self.settings,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from a state; settings that the config gives otherwise now are taken from the config. The others
        are the state's, because an optimizer may keep what it has learnt beside them."""
        self.optimizer.load_state_dict(state["optimizer"])
        for group, then, now in zip(self.optimizer.param_groups, state["settings"], self.settings, strict=True):
            group.update({name: value for name, value in now.items() if name not in then or then[name] != value})
        torch.set_rng_state(state["torch_rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"][: torch.cuda.device_count()])


def _without_parameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return copy.deepcopy({name: value for name, value in group.items() if name != "params"})
