"""Where an engine's text leaves the model's tokens, and by what margin."""

from __future__ import annotations

import pytest

from penstock.deploy.verify import Compared, Expected, Verification, compared
from penstock.hooks.problems import ProblemError

# Bytes as a byte-level tokenizer has them: a character may be several tokens.
BYTES = {number: bytes([number]) for number in range(256)}


def decode(tokens):
    return b"".join(BYTES[token] for token in tokens if token).decode(errors="replace")


def model_of(text: str, *, ended: bool = False) -> Expected:
    tokens = [*text.encode(), *([0] if ended else [])]
    return Expected("prompt", tokens, [1 + index / 100 for index in range(len(tokens))])


@pytest.mark.parametrize("ended", [False, True])
def test_an_equal_text_is_equal_in_every_token(ended):
    model = model_of("Zwölf 水", ended=ended)
    assert compared(model, "Zwölf 水", decode) == Compared("prompt", len(model.tokens), len(model.tokens), None)


@pytest.mark.parametrize(
    ("text", "theirs", "first"),
    [
        ("abcdef", "abcXef", 3),
        ("abcdef", "abc", 3),  # ended too soon
        ("Zwölf", "Zwalf", 2),  # ö is two tokens
        ("Zwölf", "Zwül", 2),  # the text shows characters, so it may be either of the two
        ("abc", "", 0),
    ],
)
def test_the_first_token_that_is_another_one_is_found(text, theirs, first):
    model = model_of(text)
    found = compared(model, theirs, decode)
    assert (found.equal, found.margin) == (first, model.margins[first])


def test_an_engine_that_goes_on_where_the_model_ends_differs_in_the_end():
    model = model_of("abc", ended=True)
    assert compared(model, "abcd", decode).equal == 3


def test_half_a_character_at_the_end_says_nothing():
    cut = Expected("prompt", list("Zwö".encode())[:-1], [1.0] * 3)
    assert compared(cut, "Zw", decode).margin is None
    assert compared(cut, "Zw\ufffd", decode).margin is None


def test_a_tie_is_told_and_a_difference_is_an_error():
    prompts = [Compared("a", 64, 64, None), Compared("b", 64, 9, 4e-4)]
    Verification("vllm", 1e-3, prompts).require_equal()
    assert "margin of 0.0004" in Verification("vllm", 1e-3, prompts).text()
    with pytest.raises(ProblemError, match="after 'b' token 10 is another one"):
        Verification("vllm", 1e-4, prompts).require_equal()
