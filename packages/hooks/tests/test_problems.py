import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.hooks.problems import ExitCode, Problem, ProblemError, did_you_mean

NAMES = st.text("abcdefgh-", min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("c", "what"), "what"),
        (Problem("c", "what", "where"), "where: what"),
        (Problem("c", "what", fix="fix"), "what, fix"),
        (Problem("c", "what", "where", "fix"), "where: what, fix"),
    ],
)
def test_text_has_no_punctuation_for_what_is_absent(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_dictionary_holds_every_field_of_a_problem() -> None:
    problem = Problem("code", "what", "where", "fix")
    assert Problem(**problem.as_dict()) == problem


def test_one_error_carries_all_problems_in_order() -> None:
    problems = [Problem("a", "first"), Problem("b", "second")]
    error = ProblemError(problems)
    assert error.problems == tuple(problems)
    assert str(error) == "first\nsecond"
    assert error.exit_code is ExitCode.USAGE
    assert ProblemError(problems[0], ExitCode.PLUGIN).problems == (problems[0],)


def test_exit_codes_are_those_of_shells() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "PLUGIN": 3,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize(
    ("wrong", "known", "hint"),
    [
        ("kk", ["k", "scale"], "did you mean 'k'?"),
        ("kkk", ["k", "scale"], "did you mean 'k'?"),
        ("lr", ["lr_min", "steps"], "did you mean 'lr_min'?"),
        ("sigmod-topk", ["softmax-topk", "sigmoid-topk"], "did you mean 'sigmoid-topk'?"),
        ("knowledge", ["k", "scale"], "known: k, scale"),
        ("", ["b", "a"], "known: a, b"),
        ("anything", [], ""),
    ],
)
def test_hint_is_the_closest_name_or_all_of_them(wrong: str, known: list[str], hint: str) -> None:
    assert did_you_mean(wrong, known) == hint


@given(st.lists(NAMES, min_size=1), NAMES)
def test_hint_does_not_depend_on_the_order_of_names(known: list[str], wrong: str) -> None:
    assert did_you_mean(wrong, known) == did_you_mean(wrong, reversed(known))


@given(st.lists(NAMES, min_size=1))
def test_a_known_name_is_its_own_hint(known: list[str]) -> None:
    assert did_you_mean(known[0], known) == f"did you mean '{known[0]}'?"
