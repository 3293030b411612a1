"""What models of transformers do with padding, positions, token types and an encoder's text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import DENSE, MIXTURES, VOCABULARY, build, tokens
from penstock_hf_models import model as model_module
from penstock_hf_models.build import hf_model
from torch import Tensor
from torch.nn import functional as F

from penstock.hooks import ProblemError
from penstock.hooks.contracts import Inputs, ModelOutput
from penstock.moe_core.frozen_base.model import FrozenBase
from penstock.routers.topk import SoftmaxTopK

LENGTHS = (7, 3, 5)
each_family = pytest.mark.parametrize("family", [*DENSE, *MIXTURES])
ENCODER_DECODERS = {
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "decoder_start_token_id": 2,
    },
}


def texts() -> list[Tensor]:
    return [tokens(length) for length in LENGTHS]


def padded(side: str) -> Inputs:
    """The texts as rows of one batch."""
    token_BS = torch.full((len(LENGTHS), max(LENGTHS)), VOCABULARY - 1)
    real_BS = torch.zeros_like(token_BS, dtype=torch.bool)
    for row, text in enumerate(texts()):
        columns = slice(0, len(text)) if side == "right" else slice(-len(text), None)
        token_BS[row, columns], real_BS[row, columns] = text, True
    return Inputs(token_BS, real_BS)


@torch.no_grad()
def logits(model: Any, inputs: Inputs | Tensor) -> Tensor:
    return model.logits(model(inputs).hidden_BSD)


@each_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_text_has_the_logits_that_it_has_alone(family: str, side: str) -> None:
    model, inputs = build(family), padded(side)
    together = logits(model, inputs)
    assert inputs.real_BS is not None
    for row, text in enumerate(texts()):
        torch.testing.assert_close(
            together[row][inputs.real_BS[row]], logits(model, text[None])[0], rtol=1e-4, atol=1e-4
        )


@each_family
@pytest.mark.parametrize("use_cache", [True, False])
def test_unequal_prompts_continue_as_each_does_alone(family: str, use_cache: bool) -> None:
    model = build(family)
    together_BS = model.generate(padded("left"), tokens=6, use_cache=use_cache)
    for row, text in enumerate(texts()):
        alone_S = model.generate(text[None], tokens=6)[0]
        assert torch.equal(together_BS[row, -len(alone_S) :], alone_S)


@pytest.mark.parametrize("family", MIXTURES)
def test_padding_is_never_counted(family: str) -> None:
    model, inputs = build(family), padded("left")
    assert inputs.real_BS is not None
    real_T = inputs.real_BS.flatten()
    for layer, routing in model(inputs).routings.items():
        assert torch.equal(routing.kept_TK, real_T[:, None].expand_as(routing.expert_TK))
        assert not routing.weight_TK[~real_T].any()
        alone = [model(text[None]).routings[layer].expert_TK for text in texts()]
        assert torch.equal(routing.expert_TK[real_T].sort(-1).values, torch.cat(alone).sort(-1).values)


def test_experts_of_a_frozen_base_see_real_tokens_alone() -> None:
    torch.manual_seed(0)
    model: Any = FrozenBase(
        build("gpt2"), layers=[1], experts=4, make_router=lambda layer, **sizes: SoftmaxTopK(**sizes, k=2, capacity=1)
    )
    with torch.no_grad():
        model.adapters["1"].experts.down_proj.normal_()
    inputs = padded("left")
    assert inputs.real_BS is not None
    real_T = inputs.real_BS.flatten()
    routing = model(inputs).routings[1]
    assert not routing.kept_TK[~real_T].any()
    assert routing.kept_TK[real_T].sum() > 0
    free: Any = FrozenBase(
        build("gpt2"), layers=[1], experts=4, make_router=lambda layer, **sizes: SoftmaxTopK(**sizes, k=2)
    )
    together_BS = free.generate(inputs, tokens=6)
    for row, text in enumerate(texts()):
        assert torch.equal(together_BS[row, -len(text) - 6 :], free.generate(text[None], tokens=6)[0])


def test_a_prompt_that_is_the_end_of_text_is_continued() -> None:
    model, prompt_BS = build("gpt2"), torch.tensor([[7]])
    free_S = model.generate(prompt_BS, tokens=6)[0]
    assert int(free_S[1]) != 7
    assert model.generate(prompt_BS, tokens=6, stop_token=7)[0, 1] == free_S[1]


def test_positions_and_token_types_are_those_of_transformers() -> None:
    model, token_BS = build("bert", task="masked"), tokens(2, 6)
    position_BS, type_BS = torch.arange(3, 9).expand(2, 6), torch.tensor([[0, 0, 0, 1, 1, 1]] * 2)
    found = logits(model, Inputs(token_BS, position_BS=position_BS, type_BS=type_BS))
    expected = model.network(token_BS, position_ids=position_BS, token_type_ids=type_BS).logits
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, logits(model, token_BS))


def test_what_a_family_cannot_read_is_refused_by_name() -> None:
    token_BS = tokens(1, 5)
    other = {
        "document_BS": Inputs(token_BS, document_BS=torch.zeros_like(token_BS)),
        "expert_BSK": Inputs(token_BS, expert_BSK={0: token_BS[..., None]}),
        "encoder": Inputs(token_BS, encoder=Inputs(token_BS)),
    }
    for name, inputs in other.items():
        with pytest.raises(ProblemError, match=f"a mixtral model of transformers cannot read `{name}`"):
            build("mixtral")(inputs)
    with pytest.raises(ProblemError, match="a mamba model of transformers cannot read `position_BS`"):
        build("mamba")(Inputs(token_BS, position_BS=torch.arange(5)[None]))


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_an_encoder_reads_a_padded_text(family: str) -> None:
    torch.manual_seed(0)
    model: Any = hf_model(
        task="seq2seq", model_type=family, settings=ENCODER_DECODERS[family], vocab_size=VOCABULARY
    ).eval()
    source, target_BS = padded("right"), tokens(3, 4)
    decoder_BS = tokens(3, 4).flip(1)
    found = logits(model, Inputs(decoder_BS, encoder=source))
    assert source.real_BS is not None
    expected = model.network(
        input_ids=source.token_BS, attention_mask=source.real_BS.long(), decoder_input_ids=decoder_BS
    ).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    loss = model.next_token_loss(Inputs(decoder_BS, encoder=source), target_BS).loss
    torch.testing.assert_close(loss, F.cross_entropy(expected.flatten(0, 1), target_BS.flatten(), reduction="sum"))
    alone = logits(model, Inputs(decoder_BS[1:2], encoder=Inputs(texts()[1][None])))
    torch.testing.assert_close(found[1:2], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [VOCABULARY, 2**24])
def test_what_is_masked_may_be_anything(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "CHUNK_LOGITS", chunk)
    model, target_BS = build("gpt2"), tokens(1, 4)
    mask_BS = torch.tensor([[True, False, True, False]])
    hidden_BSD = torch.randn(1, 4, 32)
    bad_BSD = hidden_BSD.where(mask_BS[..., None], torch.nan)
    found: list[tuple[Tensor, Tensor]] = []
    for each_BSD, each_BS in ((hidden_BSD, target_BS), (bad_BSD, target_BS.where(mask_BS, -100))):
        each_BSD = each_BSD.clone().requires_grad_()
        loss = model._token_loss(ModelOutput(each_BSD, {}), each_BS, mask_BS).loss
        found.append((loss, torch.autograd.grad(loss, each_BSD)[0]))
    assert torch.equal(found[1][0], found[0][0])
    assert torch.equal(found[1][1], found[0][1])
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        model.next_token_loss(target_BS, torch.full_like(target_BS, -100))
