# pyright: basic
"""The model that laws are held against, and what is read from it.

Shape suffixes: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from penstock.conformance.law import NotApplicable, Subject, expect
from penstock.conformance.parts import make_router
from penstock.hooks.architecture import build_architecture
from penstock.hooks.contracts import Inputs, LossOutput, RouterFactory

ARCHITECTURE = "architecture"
VOCABULARY = 48


def model_of(
    subject: Subject,
    *,
    seed: int = 0,
    quantizer: Any = None,
    make_router: RouterFactory = make_router,
    device: str = "cpu",
    **changes: Any,
) -> Any:
    """The model as a run builds it, after a seed of torch; torch's global generator is restored."""
    choice = subject.choice(**changes)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return build_architecture(choice, vocab_size=VOCABULARY, make_router=make_router, quantizer=quantizer)


def redrawn(subject: Subject, **options: Any) -> Any:
    """The same in evaluation mode, with every parameter and every router's bias moved, so that none is zero."""
    model: Any = model_of(subject, **options)
    generator = torch.Generator().manual_seed(1)
    biases = [router.e_score_correction_bias for router in model.routers.values()]
    with torch.no_grad():
        for tensor in (*model.parameters(), *(bias for bias in biases if bias is not None)):
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model.eval()


def random_tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(model: Any, inputs: Inputs | Tensor, **options: Any) -> Tensor:
    return model.logits(model(inputs, **options).hidden_BSD)


def loss_of(model: Any, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
    """The loss that the model has: of next tokens, or of a masked language model, which is always told what counts."""
    if hasattr(model, "next_token_loss"):
        return model.next_token_loss(inputs, target_BS, mask_BS)
    everywhere_BS = torch.ones_like(target_BS, dtype=torch.bool)
    return model.masked_token_loss(inputs, target_BS, everywhere_BS if mask_BS is None else mask_BS)


def generating(model: Any) -> Any:
    """The model; an encoder has no text to go on with."""
    if not hasattr(model, "generate"):
        raise NotApplicable("an encoder generates nothing")
    return model


def nats_of(logits_BSV: Tensor, target_BS: Tensor) -> Tensor:
    return F.cross_entropy(logits_BSV.flatten(0, 1), target_BS.flatten(), reduction="none").view_as(target_BS)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def names_of_one_form(model: Any) -> list[tuple[str, str]]:
    """Pairs of parameters that a sharing strategy may make one tensor: of one shape, and of one role or embedding and
    head."""
    roles, pairs = model.parameter_roles(), []
    alike: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, parameter in model.named_parameters():
        role = "embedding" if roles[name] == "head" else str(roles[name])
        alike.setdefault((role, tuple(parameter.shape)), []).append(name)
    for names in alike.values():
        pairs.extend(zip(names[::2], names[1::2], strict=False))
    return pairs


def share(model: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Makes both names of each pair one parameter, that of the first."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for first, second in pairs:
        owner, _, attribute = second.rpartition(".")
        setattr(model.get_submodule(owner), attribute, parameters[first])


def expect_close(found: Tensor, expected: Tensor, where: str) -> None:
    gap = (found - expected).abs().max().item()
    expect(torch.allclose(found, expected, rtol=1e-4, atol=1e-4), f"{where} there is a difference of {gap:.3g}")
