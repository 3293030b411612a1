"""What is counted in texts, by hand and by brute force, and the prompts that they continue."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.conformance.asking import ask
from penstock.eval_suite.diversity import longest_repeated, self_bleu
from penstock.eval_suite.quality import Quality
from penstock.eval_suite.runner import prepare, run_task
from penstock.hooks import ProblemError, Registry
from penstock.hooks.contracts import Generate, GenerateAnswer, Item, LikelihoodAnswer, TaskContext


def context(tokenizer: Any, length: int = 64, **changes: Any) -> TaskContext:
    return TaskContext(tokenizer, None, length, **changes)


def metrics_of(texts: Sequence[str], nats: Sequence[float], given: TaskContext, **changes: Any) -> dict[str, float]:
    """Of texts after one prompt, by the name before the @."""
    task = Quality(samples=len(texts), **changes)
    answers = [GenerateAnswer(text, given.tokenizer.encode(text)) for text in texts]
    samples = task.score(
        Item("1", "p", group="1"), [*answers, *(LikelihoodAnswer(each, False) for each in nats)], given
    )
    scores = {name: np.array([sample[name] for sample in samples]) for name in samples[0]}
    found = task.total(scores, given).metrics
    return {name.split("@")[0].removeprefix("quality."): value for name, value in found.items()}


def test_figures_by_hand(tokenizer):
    found = metrics_of(["a b a b a", "a b c"], [2.0, 4.0], context(tokenizer))
    assert found == {
        "distinct_1": pytest.approx(3 / 8),  # a, b, c among eight words
        "distinct_2": pytest.approx(3 / 6),  # ab, ba, bc
        "distinct_3": pytest.approx(3 / 4),  # aba, bab, abc
        "repetition_2": pytest.approx(2 / 6),  # ab and ba come again
        "repetition_3": pytest.approx(1 / 4),  # aba
        "repetition_4": 0.0,
        "longest_repetition": pytest.approx(3 / 2),  # a b a, and nothing
        "self_bleu": pytest.approx(np.mean(self_bleu(["a b a b a", "a b c"]))),
        "perplexity": pytest.approx(math.exp(6 / 14)),  # a token is a byte
        "tokens": 7.0,
        "words": 4.0,
    }


def test_texts_without_words_count_as_nothing(tokenizer):
    found = metrics_of(["", ""], [], context(tokenizer))
    assert found.pop("perplexity") == 1.0
    assert set(found.values()) == {0.0}


WORDS = st.lists(st.sampled_from("ab"), max_size=12)


@given(WORDS)
@settings(max_examples=200, deadline=None)
def test_the_longest_repetition_is_found(words):
    lengths = [
        size
        for size in range(1, len(words))
        for first in range(len(words) - size + 1)
        for second in range(first + 1, len(words) - size + 1)
        if words[first : first + size] == words[second : second + size]
    ]
    assert longest_repeated(words) == max(lengths, default=0)


def test_self_bleu_is_sacrebleus(tokenizer):
    sacrebleu: Any = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    texts = ["the gate feeds the turbine", "the gate feeds a mill", "\u6c34 is not here", ""]
    by_hand = [sacrebleu.sentence_bleu(text, [each for each in texts if each != text]).score for text in texts]
    assert self_bleu(texts) == by_hand
    assert self_bleu(["the gate feeds the mill"] * 2) == pytest.approx([100.0, 100.0])
    assert "self_bleu" not in metrics_of(["a", "b"], [0.0, 0.0], context(tokenizer), self_bleu=False)
    assert "self_bleu" not in metrics_of(["a"], [0.0], context(tokenizer))


def test_perplexity_is_the_models_own(tokenizer, make_gru):
    model, given = make_gru(257).eval(), context(tokenizer)
    task = Quality(["ab", "c"], samples=1, tokens=6, temperature=0)
    nats, count = 0.0, 0
    for prompt in ("ab", "c"):
        start = [0, *tokenizer.encode(prompt)]
        whole = model.generate(torch.tensor([start]), tokens=6)
        with torch.no_grad():
            log_SV = model.logits(model(whole[:, :-1]).hidden_BSD)[0].log_softmax(-1)
        nll_S = -log_SV.gather(1, whole[0, 1:, None])[:, 0]
        nats, count = nats + float(nll_S[len(start) - 1 :].sum()), count + 6
    name = "quality.perplexity@1-samples-6-tokens-temperature-0"
    assert ask(task, model, given).metrics[name] == pytest.approx(math.exp(nats / count), rel=1e-5)


def generations(task: Quality, given: TaskContext) -> list[Generate]:
    return [request for item in task.items(given) for request in task.requests(item, given)]


def test_each_text_is_drawn_from_a_seed_of_its_own_and_the_same_each_time(tokenizer):
    task = Quality(["a", "b"], samples=3, tokens=5, temperature=0.5)
    first, again = (generations(task, context(tokenizer)) for _ in range(2))
    assert [(each.tokens, each.temperature, each.stop) for each in first] == [(5, 0.5, ())] * 6
    assert len({each.seed for each in first}) == 6
    assert [each.seed for each in first] == [each.seed for each in again]
    assert not {each.seed for each in first} & {each.seed for each in generations(task, context(tokenizer, seed=1))}
    assert all(0 <= each.seed < 2**63 for each in first)


def test_a_model_is_measured_alike_whatever_is_read_together(tokenizer, make_gru):
    """Texts are drawn, each alone in its draws; perplexity is asked for afterwards."""
    model, task = make_gru(257), Quality(["a", "bc", "d"], samples=3, tokens=6, self_bleu=False)
    together, alone = (run_task(task, model, context(tokenizer), batch_size=size) for size in (16, 1))
    assert together.metrics == pytest.approx(alone.metrics, rel=1e-5)
    names = {name.split("@")[0]: name for name in together.metrics}
    assert together.metrics[names["quality.distinct_1"]] > 0
    assert 1 < together.metrics[names["quality.perplexity"]] < 1000
    other = run_task(task, model, context(tokenizer, seed=1))
    assert other.metrics[names["quality.perplexity"]] != together.metrics[names["quality.perplexity"]]


def test_texts_of_a_prompt_are_alike(tokenizer):
    items = list(Quality(["a", "a"], tokens=5).items(context(tokenizer)))
    assert [(item.id, item.group) for item in items] == [("1", "1"), ("2", "2")]


def test_prompts_are_the_tasks_or_the_files_or_the_runs(tokenizer, tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"begin": text}) + "\n" for text in ("x", "y")))
    run = context(tokenizer, prompts=["run's"])
    tasks = [
        Quality(["mine"], tokens=5),
        Quality(path=tmp_path / "p.jsonl", column="begin", tokens=5),
        Quality(tokens=5),
    ]
    found = [[item.document for item in task.items(run)] for task in tasks]
    assert found == [["mine"], ["x", "y"], ["run's"]]
    assert [tokenizer.decode(each.prompt) for each in generations(tasks[0], run)] == ["mine"] * 4
    assert all(each.prompt[0] == tokenizer.end_of_text for each in generations(tasks[0], run))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"prompt": "a"}\n{"text": "b"}\n', r"p\.jsonl:2: unknown column 'prompt'"),
        ('{"prompt": 1}\n', r"p\.jsonl:1: column 'prompt' is int"),
        ("", r"p\.jsonl: has no rows"),
        (json.dumps({"prompt": "long" * 20}) + "\n", r"p\.jsonl:1: 81 tokens and 5 new ones, but the model reads 64"),
    ],
)
def test_what_is_wrong_with_prompts_is_said_before_there_is_a_model(tokenizer, tmp_path, lines, said):
    (tmp_path / "p.jsonl").write_text(lines)
    with pytest.raises(ProblemError, match=said):
        prepare(Quality(path=tmp_path / "p.jsonl", tokens=5), context(tokenizer))


def test_no_prompts_no_room_and_examples_are_refused(tokenizer):
    with pytest.raises(ProblemError, match="no prompt is given"):
        prepare(Quality(tokens=5), context(tokenizer))
    with pytest.raises(ProblemError, match="128 new tokens, but the model reads 64 at once"):
        prepare(Quality(["a"]), context(tokenizer))
    with pytest.raises(ProblemError, match=r"--shots 2: task .quality. has no few-shot examples"):
        prepare(Quality(["a"], tokens=5), context(tokenizer, shots=2))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": 0}, "must be 1 at temperature 0, not 4"),
        ({"prompts": ["a"], "path": "b.jsonl"}, "is not read beside `prompts`"),
    ],
)
def test_settings_that_contradict_each_other_are_named(wrong, said):
    with pytest.raises(ProblemError, match=said):
        Registry.discover().build("task", {"use": "quality", **wrong})
