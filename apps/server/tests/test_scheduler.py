"""Texts join and leave between steps, and each has the tokens that it would have alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
import torch

from penstock.hooks.contracts import Draw, SlotDecoder
from penstock.moe_core.gpt.config import GptConfig
from penstock.moe_core.gpt.model import Gpt
from penstock.server.engine.request import Ended, Job, Step
from penstock.server.engine.scheduler import Scheduler
from penstock.server.engine.sequential import SequentialSlots

PROMPTS = [[5, 6, 7], [1], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [2, 3], [5, 6, 7, 8], [40]]


@pytest.fixture(scope="module")
def model() -> Gpt:
    torch.manual_seed(0)
    made = Gpt(
        GptConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=48)
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def batched(model: Gpt, slots: int) -> SlotDecoder:
    return model.slot_decoder(slots, 48)


def sequential(model: Gpt, slots: int) -> SlotDecoder:
    return SequentialSlots(model, slots=slots, positions=48, vocabulary_size=64)


def run(scheduler: Scheduler, jobs: Sequence[Job], *, every: int = 1) -> dict[int, list[Step]]:
    """One more job every so many steps."""
    waiting, found = list(jobs), {job.id: list[Step]() for job in jobs}
    for number in range(10_000):
        if waiting and number % every == 0:
            scheduler.add(waiting.pop(0))
        for step in scheduler.step():
            found[step.id].append(step)
        if scheduler.idle and not waiting:
            return found
    raise AssertionError("the scheduler does not end")


def alone(model: Gpt, prompt: Sequence[int], tokens: int, **sampling) -> list[int]:
    return model.generate(torch.tensor([list(prompt)]), tokens=tokens, **sampling)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("make", [batched, sequential])
@pytest.mark.parametrize(("slots", "chunk", "every"), [(1, 512, 1), (3, 512, 2), (3, 4, 1), (8, 3, 3)])
def test_every_text_is_what_it_is_alone(
    model, make: Callable[[Gpt, int], SlotDecoder], slots: int, chunk: int, every: int
):
    draws = [Draw(), Draw(0.9), Draw(0.7, 5), Draw(), Draw(1.1, None, 0.8), Draw()]
    jobs = [
        Job(number, prompt, 6 + number, draw, seed=number)
        for number, (prompt, draw) in enumerate(zip(PROMPTS, draws, strict=True))
    ]
    found = run(Scheduler(make(model, slots), chunk=chunk), jobs, every=every)
    for job in jobs:
        draw = job.draw
        sampling = {"temperature": draw.temperature, "top_k": draw.top_k, "top_p": draw.top_p, "seed": job.seed}
        assert [step.token for step in found[job.id]] == alone(model, job.tokens, job.most, **sampling)
        assert [step.ended for step in found[job.id]] == [None] * (job.most - 1) + [Ended.LENGTH]


def test_a_text_ends_with_a_token_that_ends_it(model):
    expected = alone(model, PROMPTS[0], 8)
    (steps,) = run(Scheduler(batched(model, 2)), [Job(1, PROMPTS[0], 8, Draw(), ends=[expected[3]])]).values()
    at = expected.index(expected[3])
    assert [step.token for step in steps] == expected[: at + 1]
    assert steps[-1].ended == Ended.STOP


@pytest.mark.parametrize("make", [batched, sequential])
def test_what_two_prompts_have_in_common_is_read_once(model, make):
    scheduler = Scheduler(make(model, 3))
    long = list(range(20))
    first, second, third = (
        Job(number, long + tail, 4, Draw()) for number, tail in enumerate([[30], [31, 32], [30, 33]])
    )
    steps = run(scheduler, [first])
    assert [step.cached for step in steps[0]] == [0] * 4
    for job, cached in ((second, 20), (third, 21)):
        found = run(scheduler, [job])[job.id]
        assert {step.cached for step in found} == {cached}
        assert [step.token for step in found] == alone(model, job.tokens, 4)
    assert (scheduler.prompt_tokens, scheduler.cached_tokens) == (21 + 22 + 22, 41)
    together = run(scheduler, [Job(10, [*long, 50], 5, Draw()), Job(11, [*long, 51], 5, Draw())])
    for id, tail in ((10, 50), (11, 51)):
        assert [step.token for step in together[id]] == alone(model, [*long, tail], 5)


def test_a_text_that_is_cancelled_frees_its_slot(model):
    scheduler = Scheduler(batched(model, 1))
    scheduler.add(Job(1, [1, 2], 40, Draw()))
    scheduler.add(Job(2, [3], 3, Draw()))
    scheduler.add(Job(3, [4], 3, Draw()))
    for _ in range(3):
        assert [step.id for step in scheduler.step()] == [1]
    scheduler.cancel(1)
    scheduler.cancel(2)
    scheduler.cancel(99)
    assert {step.id for _ in range(3) for step in scheduler.step()} == {3}
    assert scheduler.idle


def test_a_job_without_room_or_with_unknown_tokens_is_refused(model):
    scheduler = Scheduler(batched(model, 1))
    scheduler.add(Job(1, [1] * 40, 9, Draw()))
    for tokens, most, why in (([1] * 40, 10, "room for 48"), ([], 1, "room"), ([64], 1, "vocabulary of 64")):
        with pytest.raises(ValueError, match=why):
            scheduler.add(Job(2, tokens, most, Draw()))


def test_a_prompt_that_is_read_does_not_stop_others(model):
    scheduler = Scheduler(batched(model, 2), chunk=4)
    scheduler.add(Job(1, [1], 20, Draw()))
    scheduler.step()
    scheduler.add(Job(2, list(range(30)), 2, Draw()))
    steps = [scheduler.step() for _ in range(8)]
    assert all(1 in {step.id for step in each} for each in steps)
    assert [sum(step.id == 2 for step in each) for each in steps] == [0] * 7 + [1]


def test_a_line_carries_a_job():
    job = Job(3, [1, 2], 5, Draw(0.5, 3, 0.9, 2), seed=7, ends=[0])
    assert Job.of(json.loads(job.line())["begin"]) == job
