"""The engine: who holds the parameters, computes gradients and takes steps. `LocalEngine` is one process.

The loop speaks to nothing else, so an engine that shards (DeepSpeed, FSDP) takes this one's place without a change to
the loop: backward, step, and state in and out.
"""

from __future__ import annotations

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

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self) -> float:
        """Clips the gradient; returns its norm before that."""
        limit = float("inf") if self.gradient_clip is None else self.gradient_clip
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit).item()

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
        return {"optimizer": self.optimizer.state_dict(), "torch_rng": torch.get_rng_state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
