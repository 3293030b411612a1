"""Bubbles and held micro-batches, against pipelines played through operation by operation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.netsim.pipeline import (
    SCHEDULES,
    StageTimes,
    bubble_seconds,
    held_micro_batches,
    least_micro_batches,
    step_seconds,
)


def play(order_SO, seconds, needs):
    """When the last operation ends, if every stage works off its list and waits for what each operation needs."""
    done, at, free = {}, [0] * len(order_SO), [0.0] * len(order_SO)
    while any(place < len(order) for place, order in zip(at, order_SO, strict=True)):
        before = list(at)
        for stage, order in enumerate(order_SO):
            while at[stage] < len(order) and all(need in done for need in needs(stage, order[at[stage]])):
                operation = order[at[stage]]
                start = max([free[stage], *(done[need] for need in needs(stage, operation))])
                free[stage] = done[stage, operation] = start + seconds[operation[0]]
                at[stage] += 1
        assert at != before, "the schedule waits for itself"
    return max(free)


def held(order):
    """Most micro-batches forwarded whose last gradient, `W` or else `B`, is not computed yet."""
    last = "W" if any(operation[0] == "W" for operation in order) else "B"
    now = most = 0
    for kind, *_ in order:
        now += (kind == "F") - (kind == last)
        most = max(most, now)
    return most


def one_chunk(stages, micro_batches, warm_up, delay):
    """Each stage forwards `warm_up(stage)` micro-batches, then goes back and forth in turn; with `delay(stage)`, the
    gradient of weights is an operation of its own that comes so many micro-batches later."""
    orders = []
    for stage in range(stages):
        ahead = min(warm_up(stage), micro_batches)
        order, late = [("F", number) for number in range(ahead)], 0
        for number in range(micro_batches):
            order.append(("B", number))
            if delay is not None and number >= delay(stage):
                order.append(("W", late))
                late += 1
            if ahead < micro_batches:
                order.append(("F", ahead))
                ahead += 1
        if delay is not None:
            order += [("W", number) for number in range(late, micro_batches)]
        orders.append(order)

    def needs(stage, operation):
        kind, number = operation
        if kind == "F":
            return [(stage - 1, operation)] if stage else []
        if kind == "B":
            return [(stage, ("F", number)), *([(stage + 1, operation)] if stage < stages - 1 else [])]
        return [(stage, ("B", number))]

    return orders, needs


def interleaved(stages, micro_batches, chunks):
    """Megatron-LM's order: groups of as many micro-batches as stages, chunk after chunk; backward the other way."""
    count = micro_batches * chunks

    def nth(number, backward):
        group, place = divmod(number, stages * chunks)
        chunk, member = divmod(place, stages)
        return (chunks - 1 - chunk if backward else chunk), group * stages + member

    orders = []
    for stage in range(stages):
        ahead = min(2 * (stages - stage - 1) + (chunks - 1) * stages, count)
        order = [("F", *nth(number, False)) for number in range(ahead)]
        for number in range(count):
            if ahead < count:
                order.append(("F", *nth(ahead, False)))
                ahead += 1
            order.append(("B", *nth(number, True)))
        orders.append(order)

    def needs(stage, operation):
        kind, chunk, number = operation
        if kind == "F":
            before = (stage - 1, chunk) if stage else (stages - 1, chunk - 1)
            return [(before[0], ("F", before[1], number))] if before[1] >= 0 else []
        after = (stage + 1, chunk) if stage < stages - 1 else (0, chunk + 1)
        own = [(stage, ("F", chunk, number))]
        return own + ([(after[0], ("B", after[1], number))] if after[1] < chunks else [])

    return orders, needs


def played(schedule, times, stages, chunks, micro_batches):
    """Seconds of the step and the most micro-batches that each stage holds."""
    seconds = {"F": times.forward, "B": times.backward + times.weight, "W": 0.0}
    match schedule:
        case "gpipe":
            orders, needs = one_chunk(stages, micro_batches, lambda stage: micro_batches, None)
        case "1f1b":
            orders, needs = one_chunk(stages, micro_batches, lambda stage: stages - stage, None)
        case "interleaved":
            orders, needs = interleaved(stages, micro_batches, chunks)
            seconds = {name: value / chunks for name, value in seconds.items()}
        case "zb-h1":
            orders, needs = one_chunk(stages, micro_batches, lambda stage: stages - stage, lambda stage: stage)
        case "zb-h2":
            orders, needs = one_chunk(
                stages, micro_batches, lambda stage: 2 * (stages - stage) - 1, lambda stage: 2 * stage
            )
    if schedule.startswith("zb"):
        seconds = {"F": times.forward, "B": times.backward, "W": times.weight}
    return play(orders, seconds, needs), [held(order) / chunks for order in orders]


@st.composite
def pipelines(draw):
    schedule = draw(st.sampled_from(SCHEDULES))
    stages, chunks = draw(st.integers(1, 6)), draw(st.integers(2, 3)) if schedule == "interleaved" else 1
    micro_batches = draw(st.integers(least_micro_batches(schedule, stages), 4 * stages))
    if schedule == "interleaved":
        micro_batches -= micro_batches % stages
    forward, backward, weight = (draw(st.integers(2, 6)) / 4 for _ in range(3))
    weight = min(weight, forward, backward) if schedule.startswith("zb") else weight
    return schedule, StageTimes(forward, backward, weight), stages, chunks, micro_batches


@settings(max_examples=200, deadline=None)
@given(pipelines())
def test_every_schedule_takes_as_long_as_played_through(case):
    schedule, times, stages, chunks, micro_batches = case
    seconds, _ = played(*case)
    assert step_seconds(schedule, times, stages, chunks, micro_batches) == pytest.approx(seconds)


@settings(max_examples=200, deadline=None)
@given(pipelines())
def test_every_stage_holds_as_many_micro_batches_as_played_through(case):
    schedule, _, stages, chunks, micro_batches = case
    _, most = played(*case)
    assert [held_micro_batches(schedule, stage, stages, chunks, micro_batches) for stage in range(stages)] == most


def test_one_stage_has_no_bubble():
    times = StageTimes(1, 1, 1)
    assert all(bubble_seconds(schedule, times, 1, 1) == 0 for schedule in SCHEDULES)


def test_schedules_are_ordered_by_their_bubble_where_all_times_are_alike():
    times = StageTimes(1, 1, 1)
    assert bubble_seconds("zb-h1", times, 8, 1) == 7
    assert bubble_seconds("interleaved", times, 8, 2) == 10.5
    assert bubble_seconds("1f1b", times, 8, 1) == bubble_seconds("gpipe", times, 8, 1) == 21
    assert bubble_seconds("zb-h2", times, 8, 1) == 7  # of a stage alone 0, but the last one starts 7 forwards late
