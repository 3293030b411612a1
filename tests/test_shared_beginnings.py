"""What is read once for several questions: every architecture answers as if it had read each question alone, and with
`batch_invariant` to the bit, whatever else is asked, in which order and how many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from penstock_hf_models.model import CausalModel
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.passes import shares_beginnings
from penstock.eval_suite.precision import computing_in
from penstock.eval_suite.runner import prepare
from penstock.hooks import Registry
from penstock.hooks.contracts import (
    Answer,
    Generate,
    GenerateAnswer,
    Item,
    Likelihood,
    LikelihoodAnswer,
    Rolling,
    RollingAnswer,
    TaskContext,
    TaskResult,
)
from penstock.moe_core.frozen_base.model import FrozenBase
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe
from penstock.moe_core.gpt.config import GptConfig
from penstock.moe_core.gpt.model import Gpt

VOCABULARY, LENGTH = 61, 250


class Numbers:
    """Token n is the character n; token 0 ends a text."""

    vocabulary_size, end_of_text = VOCABULARY, 0

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def byte_lengths(self) -> np.ndarray:
        return np.ones(VOCABULARY)


class Asking:
    """Asks what it is given, one item a request."""

    def __init__(self, *requests: Any) -> None:
        self._requests = requests

    def items(self, context: TaskContext) -> Iterator[Item]:
        yield from (Item(str(number), request) for number, request in enumerate(self._requests))

    def requests(self, item: Item, context: TaskContext) -> Sequence[Any]:
        return [item.document]

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        return [{"one": 1.0}]

    def total(self, scores: Mapping[str, Any], context: TaskContext) -> TaskResult:
        return TaskResult({"asking.items": float(scores["one"].sum())})


def answers_of(model: Any, requests: Sequence[Any], **options: Any) -> list[Answer]:
    prepared, store = prepare(Asking(*requests), TaskContext(Numbers(), None, LENGTH)), AnswerStore()
    prepared.run(model, store, **options)
    return [answer for each in prepared.answered(store) for answer in each.answers]


def nats(answers: Sequence[Answer]) -> list[float]:
    return [answer.nll for answer in answers if isinstance(answer, LikelihoodAnswer)]


def questions() -> list[Likelihood]:
    """Two subjects of examples, 150 and 20 tokens long, each with three questions: of one-token choices, of choices of
    one to three tokens, and of an only choice; then texts that share nothing."""
    draw = np.random.default_rng(0)

    def tokens(count: int) -> list[int]:
        return draw.integers(1, VOCABULARY, count).tolist()

    found: list[Likelihood] = []
    for length in (150, 20):
        examples = tokens(length)
        for choices in ((1, 1, 1, 1), (1, 2, 3, 3), (4,)):
            question = examples + tokens(int(draw.integers(10, 50)))
            found += [Likelihood(question, tokens(count)) for count in choices]
    return found + [Likelihood(tokens(int(draw.integers(1, 150))), tokens(3)) for _ in range(5)]


def everything() -> list[Any]:
    streams = [Rolling(np.array(questions()[0].context[:50]), 16, stride) for stride in (5, None)]
    return [*questions(), *streams, *(Generate(each.context[-9:], 4) for each in questions()[-3:])]


def drawn(model: torch.nn.Module) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def a_gpt() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return drawn(Gpt(GptConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **sizes)))


def a_mixture(**router: Any) -> Any:
    torch.manual_seed(0)
    config = GlmMoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        moe_intermediate_size=16,
        n_routed_experts=4,
    )
    return drawn(GlmMoe(config, make_router=router_of(**router)))


@cache
def the_registry() -> Registry:
    return Registry.discover()


def router_of(**changes: Any) -> Callable[..., Any]:
    return lambda layer, **sizes: the_registry().build("router", {"use": "sigmoid-topk", **changes}, **sizes)


def a_frozen_base() -> Any:
    return drawn(FrozenBase(a_gpt(), layers=[1], make_router=router_of(use="softmax-topk"), experts=4))


def a_gpt_of_transformers() -> Any:
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=LENGTH)
    return drawn(CausalModel(GPT2LMHeadModel(config)))


def a_sliding_window_of_transformers() -> Any:
    """Its cache forgets what the window has left, so nothing can be shared."""
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        sliding_window=24,
    )
    return drawn(CausalModel(MistralForCausalLM(config)))


MODELS: dict[str, tuple[Callable[[], Any], bool]] = {
    "gpt": (a_gpt, True),
    "glm-moe": (a_mixture, True),
    "frozen-base": (a_frozen_base, True),
    "gpt2 of transformers": (a_gpt_of_transformers, True),
    "sliding window": (a_sliding_window_of_transformers, False),
    "capacity for a batch": (lambda: a_mixture(capacity=1.25), False),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_question_is_answered_as_if_it_were_read_alone(name):
    make, shares = MODELS[name]
    model = make()
    assert shares_beginnings(model) is shares
    expected = [answers_of(model, [each], whole=True)[0] for each in questions()]
    for batch_size in (1, 16):
        assert nats(answers_of(model, questions(), batch_size=batch_size)) == pytest.approx(nats(expected), abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_batch_invariant_answers_have_the_same_bits_in_any_order_and_company(name):
    model = MODELS[name][0]()
    asked = everything()
    expected = list(map(repr, answers_of(model, asked, batch_invariant=True)))
    for batch_size in (1, 16):
        order = np.random.default_rng(batch_size).permutation(len(asked))[: len(asked) - batch_size // 2]
        found = answers_of(model, [asked[at] for at in order], batch_invariant=True, batch_size=batch_size)
        assert list(map(repr, found)) == [expected[at] for at in order]
    assert [repr(answers_of(model, [each], batch_invariant=True)[0]) for each in asked] == expected


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_killed_anywhere_and_begun_again_has_the_same_bits(tmp_path, batch_invariant):
    model, store = a_gpt(), tmp_path / "answers.jsonl"
    prepared = prepare(Asking(*questions()), TaskContext(Numbers(), None, LENGTH))

    def run() -> None:
        prepared.run(model, AnswerStore("w", store), batch_size=2, batch_invariant=batch_invariant)

    run()
    whole = store.read_bytes()
    ends = [position for position, byte in enumerate(whole, 1) if byte == ord("\n")]
    for end in ends[::3]:
        store.write_bytes(whole[: end + 7])
        run()
        assert store.read_bytes() == whole


def test_a_common_beginning_is_read_once():
    model, read = a_gpt(), []
    model.register_forward_pre_hook(lambda _module, arguments: read.append(arguments[0].shape[1]))
    draw = np.random.default_rng(1)
    examples = draw.integers(1, VOCABULARY, 200).tolist()
    asked = [Likelihood(examples + [number] * 9, [letter]) for number in range(1, 9) for letter in range(4)]
    answers_of(model, asked)
    assert sum(read) == 200 + 8 * 9
    read.clear()
    answers_of(model, asked, batch_invariant=True)
    assert sum(read) == 128 + 8 * (200 - 128 + 9)


def continued(model: Any, requests: Sequence[Generate], **options: Any) -> list[str]:
    return [answer.text for answer in answers_of(model, requests, **options) if isinstance(answer, GenerateAnswer)]


@pytest.mark.parametrize("name", MODELS)
def test_a_prompt_is_continued_as_it_is_alone_whatever_its_length(name):
    model = MODELS[name][0]()
    prompts = [each.context[-length:] for length, each in enumerate(questions(), 3)]
    plain = [Generate(prompt, 8) for prompt in prompts[:8]]
    alone = [continued(model, [each], whole=True)[0] for each in plain]
    assert continued(model, plain) == alone
    stops = (alone[0][2], alone[1][4:6])
    expected = [min((text.partition(stop)[0] for stop in stops), key=len) for text in alone]
    assert continued(model, [Generate(each.prompt, 8, stops) for each in plain]) == expected
    assert len(set(map(len, expected))) > 1


def test_a_text_that_has_stopped_is_not_continued():
    model, prompt = a_gpt(), questions()[0].context[-20:]
    (text,) = continued(model, [Generate(prompt, 12)])
    read = []
    model.register_forward_pre_hook(lambda _module, arguments: read.append(arguments[0]))
    (stopped,) = continued(model, [Generate(prompt, 12, (text[3],))])
    assert stopped == text.partition(text[3])[0]
    assert len(read) == len(stopped) + 1


def test_what_is_drawn_depends_on_its_seed_and_on_nothing_else():
    model, prompt = a_gpt(), questions()[0].context[-20:]
    asked = [Generate(prompt, 12, (), 1.0, seed) for seed in range(5)]
    drawn_alone = [continued(model, [each])[0] for each in asked]
    assert continued(model, asked[::-1]) == drawn_alone[::-1]
    assert len(set(drawn_alone)) == 5
    stop = drawn_alone[0][2]
    (cut,) = continued(model, [Generate(prompt, 12, (stop,), 1.0, 0)])
    assert cut == drawn_alone[0].partition(stop)[0]


def test_fp64_takes_the_noise_out_and_leaves_the_model_as_it_was():
    model = a_gpt()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with computing_in(model, torch.float64):
        shared = answers_of(model, everything())
        alone = [answers_of(model, [each], whole=True)[0] for each in everything()]
    assert nats(shared) == pytest.approx(nats(alone), abs=1e-11)
    assert nats(shared) == pytest.approx(nats(answers_of(model, everything())), abs=1e-4)
    assert nats(shared) != nats(answers_of(model, everything()))
    streams = [[each.nll_N for each in answers if isinstance(each, RollingAnswer)] for answers in (shared, alone)]
    for one, other in zip(*streams, strict=True):
        assert one == pytest.approx(other, abs=1e-12)
    assert model.compute_dtype == torch.float32
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_result_names_the_routers_that_look_at_other_tokens():
    def details(model: Any) -> Mapping[str, Any]:
        return prepare(Asking(*questions()[:2]), TaskContext(Numbers(), None, LENGTH)).run(model).details

    assert details(a_mixture(capacity=1.25))["batch_dependent_routers"] == ["SigmoidTopK in layer 1"]
    assert "batch_dependent_routers" not in details(a_mixture())
