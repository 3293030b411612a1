"""Laws of attention in blocks: it is the eager attention of transformers, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from penstock_hf_models.attention import use_blocks
from transformers import GPTNeoConfig, GPTNeoForCausalLM

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "max_position_embeddings": 256,
}


def pair(window: int) -> list[Any]:
    torch.manual_seed(0)
    first = GPTNeoForCausalLM(GPTNeoConfig(**SHAPE, window_size=window))
    second = GPTNeoForCausalLM(first.config)
    second.load_state_dict(first.state_dict())
    use_blocks(second)
    return [first.eval(), second.eval()]


@pytest.mark.parametrize("length", [1, 64, 65, 150])
@pytest.mark.parametrize("window", [16, 256])
@pytest.mark.parametrize("padded", [False, True])
def test_logits_and_gradients_are_those_of_the_eager_attention(length: int, window: int, padded: bool) -> None:
    token_BS = torch.randint(0, 96, (2, length), generator=torch.Generator().manual_seed(1))
    mask_BS = torch.ones(2, length, dtype=torch.long)
    mask_BS[0, length // 2 + 1 :] = 0
    options = {"attention_mask": mask_BS} if padded else {}
    logits, gradients = [], []
    for model in pair(window):
        out = model(token_BS, use_cache=False, **options).logits
        (out.log_softmax(-1)[..., 0] * mask_BS).sum().backward()
        logits.append(out.detach())
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-6)
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_text_is_continued_with_a_cache_as_without() -> None:
    first, second = pair(256)
    prompt = torch.randint(0, 96, (1, 10), generator=torch.Generator().manual_seed(2))
    texts = [model.generate(prompt, max_new_tokens=8, do_sample=False) for model in (first, second)]
    assert torch.equal(*texts)
