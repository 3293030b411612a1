"""The decoder computes what its description says, with the same bits for all threads, kernels and chunks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from stored_models import Oracle, random_model

from penstock.hooks.problems import ProblemError
from penstock.quant158 import native
from penstock.quant158.decoder import Decoder, NotDecodableError, decodable
from penstock.quant158.decoder.description import Description
from penstock.quant158.values import FP16, FP32

pytestmark = pytest.mark.skipif(not native.built(), reason="built without a compiler")

DENSE = {"mlp": "dense", "hidden": 100}
SIGMOID = {
    **{"mlp": "experts", "hidden": 24, "experts": 6, "k": 2, "score": "sigmoid", "normalize": True, "scale": 2.5},
    **{"temperature": 1.0, "groups": 1, "shared": 40},
}
SOFTMAX = {**SIGMOID, "k": 3, "score": "softmax", "normalize": False, "scale": 1.0, "temperature": 0.7, "shared": 0}
DESCRIBED: dict[str, Any] = {
    **{"kind": "transformer", "width": 72, "heads": 4, "key_value_heads": 2, "head_width": 20, "rotary_width": 10},
    **{"rope_theta": 10_000.0, "epsilon": 1e-5, "qk_norm": True, "bias": True, "sub_norm": False, "vocabulary": 101},
    **{"positions": 90, "tied": False, "activations": {"matrix": 16, "expert": 16, "head": 16}},
    "layers": [DENSE, SIGMOID, SOFTMAX],
}
TOKENS = np.random.default_rng(7).integers(0, DESCRIBED["vocabulary"], 80).tolist()


def described(**changes: Any) -> Description:
    return Description.read({**DESCRIBED, **changes}, "test")


@pytest.mark.parametrize("rows", [FP32, "fp16", "bf16", "int8-rows", "int4-rows"])
@pytest.mark.parametrize(
    ("changes", "ternary"),
    [
        ({}, "ternary-base3-g64"),
        ({"sub_norm": True, "tied": True, "rotary_width": 20}, "ternary-base3-tensor"),
        ({"qk_norm": False, "bias": False, "heads": 6, "key_value_heads": 1}, "ternary-base3-row"),
    ],
)
def test_logits_are_those_of_the_definition(changes: dict[str, Any], ternary: str, rows: str) -> None:
    description = described(**changes)
    stored = random_model(description, ternary=ternary, rows=rows)
    found = Decoder(stored, description, threads=1).text().logits(TOKENS[:40])
    expected = Oracle(stored, description).logits(TOKENS[:40])
    error = np.abs(found - expected).max(axis=1) / np.abs(expected).max()
    assert np.median(error) < 5e-5
    assert error.max() < 3e-4  # where a sum of another order rounds an input to the next of 65,025 steps


def test_inputs_of_eight_bits_are_rounded_where_training_rounded_them() -> None:
    """A sum of another order may round one input elsewhere, which moves the logits behind it by less than a percent."""
    description = described(activations={"matrix": 8, "expert": 8, "head": 8})
    stored = random_model(description, rows="int8-rows")
    found = Decoder(stored, description, threads=1).text().logits(TOKENS[:20])
    expected = Oracle(stored, description).logits(TOKENS[:20])
    error = np.abs(found - expected) / np.abs(expected).max()
    assert error.max() < 1e-2
    assert error[0].max() < 1e-5
    whole = Oracle(stored, described()).logits(TOKENS[:20])
    assert np.abs(whole - expected).max() / np.abs(expected).max() > 3e-2


@pytest.mark.parametrize("bits", [8, 16])
def test_chunks_threads_and_kernels_change_no_bit(bits: int) -> None:
    description = described(activations={"matrix": bits, "expert": bits, "head": bits})
    stored = random_model(description, rows="int8-rows")
    whole = Decoder(stored, description, threads=1).text().logits(TOKENS)
    one_by_one = Decoder(stored, description, threads=1).text()
    np.testing.assert_array_equal(np.concatenate([one_by_one.logits([token]) for token in TOKENS]), whole)
    for kernel, threads in itertools.product(native.supported(), (1, 2, 3)):
        text = Decoder(stored, description, threads=threads, kernel=kernel).text()
        parts = [text.logits(TOKENS[start:end]) for start, end in ((0, 37), (37, 38), (38, 80))]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_layers_wide_enough_to_be_shared_among_threads_have_the_same_bits() -> None:
    mixture = {**SIGMOID, "hidden": 320, "experts": 16, "k": 4, "shared": 320}
    description = described(width=256, heads=8, key_value_heads=4, layers=[{"mlp": "dense", "hidden": 700}, mixture])
    stored = random_model(description)
    expected = Decoder(stored, description, threads=1).text().logits(TOKENS)
    text = Decoder(stored, description, threads=4).text()
    np.testing.assert_array_equal(np.concatenate([text.logits(TOKENS[:50]), text.logits(TOKENS[50:])]), expected)


def test_what_is_cut_off_leaves_no_trace() -> None:
    description = described()
    stored = random_model(description)
    decoder = Decoder(stored, description, threads=1)
    text, other = decoder.text(), decoder.text(50)
    text.read(TOKENS[:60])
    text.cut(30)
    other.read(TOKENS[:30])
    np.testing.assert_array_equal(text.logits(TOKENS[60:70]), other.logits(TOKENS[60:70]))


@pytest.mark.parametrize(
    "sampling", [{}, {"top_k": 5}, {"top_p": 0.8}, {"top_k": 20, "top_p": 0.6}, {"top_k": 1}, {"top_p": 1e-6}]
)
def test_a_token_is_where_a_number_of_torchs_generator_falls(sampling: dict[str, Any]) -> None:
    description = described()
    decoder = Decoder(random_model(description), description, threads=1)
    drawn = list(decoder.next_tokens(TOKENS[:5], tokens=40, temperature=0.8, seed=11, **sampling))
    read = decoder.text().logits([*TOKENS[:5], *drawn[:-1]])[4:]
    shares = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(11)).tolist()
    assert drawn == [_drawn(row / 0.8, share, **sampling) for row, share in zip(read, shares, strict=True)]


def _drawn(logits: np.ndarray, share: float, top_k: int | None = None, top_p: float = 1.0) -> int:
    weight = np.exp(logits.astype(np.float64) - logits.max())
    order = np.argsort(-weight, kind="stable")[:top_k]
    before = np.cumsum(weight[order]) - weight[order]
    order = order[before < top_p * weight[order].sum()]
    return int(order[np.searchsorted(np.cumsum(weight[order]), share * weight[order].sum(), side="right")])


def test_greedy_takes_the_likeliest_token_and_the_first_of_equals() -> None:
    description = described(tied=True)
    stored = random_model(description)
    rows = stored.arrays("embed_tokens.weight")["values"]
    rows[60:] = rows[:41]  # of each token there are two
    decoder = Decoder(stored, description, threads=1)
    drawn = list(decoder.next_tokens([3], tokens=30))
    logits = decoder.text().logits([3, *drawn[:-1]])
    assert drawn == logits.argmax(-1).tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9, "top_k": 5}])
def test_logits_without_a_finite_largest_are_refused(value: float, sampling: dict[str, Any]) -> None:
    description = described()
    stored = random_model(description, ternary="ternary-base3-row", rows=FP32)
    stored.arrays("norm.weight")["values"][0] = value
    text = Decoder(stored, description, threads=1).text()
    with pytest.raises(ProblemError, match="logits that are NaN or infinite"):
        text.next(TOKENS[:3], **sampling)


def test_tokens_beyond_the_positions_or_the_vocabulary_are_refused_and_nothing_is_read() -> None:
    description = described()
    text = Decoder(random_model(description), description, threads=1).text(20)
    with pytest.raises(ProblemError, match="21 tokens, but the text has room for 20"):
        text.read(TOKENS[:21])
    for token in (-1, description.vocabulary):
        with pytest.raises(ProblemError, match="outside the vocabulary of 101"):
            text.next([1, token])
    assert text.length == 0
    text.read(TOKENS[:20])


def test_formats_that_the_decoder_lacks_are_named() -> None:
    description = described()
    for name, stored_as, what in (
        ("layers.1.self_attn.o_proj.weight", FP32, "o_proj.weight' is fp32, and the decoder multiplies ternary"),
        ("layers.1.self_attn.o_proj.weight", FP16, "o_proj.weight' is fp16, and the decoder multiplies ternary"),
        ("lm_head.weight", "ternary-base3-row", "lm_head.weight' is ternary-base3-row, and the decoder reads it as"),
    ):
        stored = random_model(description)
        stored.tensors[name] = type(stored.tensors[name])(stored_as, stored.tensors[name].shape)
        with pytest.raises(NotDecodableError, match=what):
            Decoder(stored, description)


def test_a_model_that_no_decoder_computes_says_why() -> None:
    with pytest.raises(NotDecodableError, match="a router of its own"):
        decodable(random_model(described()), {"unsupported": "a router of its own"}, "model.penstock")


def test_a_damaged_matrix_is_named() -> None:
    description = described()
    stored = random_model(description)
    stored.arrays("layers.2.mlp.experts.down_proj")["codes"][50] = 243
    with pytest.raises(ProblemError, match=r"layers\.2\.mlp\.experts\.down_proj"):
        Decoder(stored, description, threads=2)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"heads": 3}, r"heads \(3\) is not a multiple of key_value_heads"),
        ({"rotary_width": 22}, r"rotary_width \(22\) is odd or above"),
        ({"width": 2**40}, "width"),
        ({"epsilon": "small"}, "epsilon"),
        ({"layers": [{**SIGMOID, "k": 7}]}, "k is 7 of 6 experts"),
        ({"layers": [{**SIGMOID, "groups": 2}]}, "groups"),
        ({"kind": "recurrent"}, "kind"),
        ({"window": 5}, "window"),
    ],
)
def test_a_description_that_means_nothing_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ProblemError, match=what):
        described(**changes)


def test_a_tensor_of_another_shape_than_described_is_refused() -> None:
    with pytest.raises(ProblemError, match=r"shape \[80, 72\], but its description says \[80, 80\]"):
        Decoder(random_model(described()), described(width=80))
