"""`penstock simulate cost`: what is found, what it takes, and what is refused."""

from __future__ import annotations

import json

import pytest

from penstock.cli.main import run
from penstock.hooks.problems import ExitCode, ProblemError


def test_the_fastest_layouts_come_first_with_time_memory_and_money(capsys):
    result = run(["simulate", "cost", "glm-4.5-air", "--gpus", "64", "--json"])
    assert json.loads(capsys.readouterr().out) == result
    seconds = [row["step_seconds"] for row in result["layouts"]]
    assert seconds == sorted(seconds)
    first = result["layouts"][0]
    assert first["memory"]["total"] <= result["memory_bytes"]
    assert first["step_seconds"] == pytest.approx(sum(first["seconds"].values()))
    assert first["dollars"] == pytest.approx(first["gpu_hours"] * 2.0)
    assert {row["measured"] for row in result["assumed"]} == {False, True}


def test_a_given_layout_is_costed_as_it_is(capsys):
    layout = "{tensor: 8, pipeline: 16, data: 64, expert: 32, recompute: full}"
    result = run(["simulate", "cost", "glm-4.6", "--gpus", "8192", "--layout", layout, "--price", "2.5"])
    (row,) = result["layouts"]
    assert row["layout"]["expert"] == 32
    assert row["dollars"] == pytest.approx(row["gpu_hours"] * 2.5)
    assert "first: memory" in capsys.readouterr().out


def test_a_layout_that_does_not_fit_is_costed_and_said_not_to(capsys):
    run(["simulate", "cost", "glm-4.6", "--gpus", "1", "--layout", "{}"])
    assert "This does not fit: a GPU has 80 GiB" in capsys.readouterr().out


def test_hardware_without_a_known_price_costs_no_money():
    assert (
        run(["simulate", "cost", "glm-4.5-air", "--gpus", "64", "--hardware", "h100"])["layouts"][0]["dollars"] is None
    )


def test_skew_costs_time_and_overlap_saves_it():
    base, skewed, hidden = (
        run(["simulate", "cost", "glm-4.5-air", "--gpus", "64", *more])["layouts"][0]["step_seconds"]
        for more in ([], ["--imbalance", "1.5"], ["--overlap", "1"])
    )
    assert hidden < base < skewed


def test_the_published_plan_stands_beside_ours(capsys):
    result = run(["simulate", "cost", "glm-4.6", "--gpus", "8192", "--reference"])
    assert {row["verdict"] for row in result["reference_plan"]} == {"agrees", "differs", "cannot be"}
    assert "the published plan" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["glm-46", "--gpus", "8"], r"did you mean 'glm-4\.6'"),
        (["glm-4.6", "--gpus", "8", "--hardware", "h801"], "did you mean 'h800'"),
        (["glm-4.6", "--gpus", "0"], "use 1 to 8192"),
        (["glm-4.6", "--gpus", "8"], "the smallest needs"),
        (["glm-4.6", "--gpus", "8", "--layout", "{tensr: 8}"], "did you mean 'tensor'"),
        (["glm-4.6", "--gpus", "8", "--layout", "tensor"], "is not a layout"),
        (["glm-4.6", "--gpus", "8", "--layout", "{tensor: many}"], "tensor: input should be a valid integer"),
        (["glm-4.6", "--gpus", "8", "--layout", "{tensor: 4}"], "tensor x pipeline x data is 4, but --gpus is 8"),
        (["glm-4.6", "--gpus", "8", "--layout", "{data: 8, expert: 3}"], "160 experts are not divisible"),
    ],
)
def test_bad_input_is_named_and_is_the_users(arguments, message):
    with pytest.raises(ProblemError, match=message) as caught:
        run(["simulate", "cost", *arguments])
    assert caught.value.exit_code is ExitCode.USAGE
