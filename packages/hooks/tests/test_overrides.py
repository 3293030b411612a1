from __future__ import annotations

import copy
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hooks.config import ConfigDocument, apply_overrides, parse_config, read_config
from penstock.hooks.problems import ProblemError

TEXT = """\
name: x
model:
  router: top-k
  balance:
    - {use: nudge, rate: 0.1}
    - penalty
  quantizer: null
"""


def document(*overrides: str) -> ConfigDocument:
    return apply_overrides(parse_config(TEXT, "run.yaml"), overrides)


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ProblemError) as caught:
        document(*overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("override", "location", "value"),
    [
        ("name=y", ("name",), "y"),
        ("seed=3", ("seed",), 3),
        ("lr=1e-3", ("lr",), 0.001),
        ("name=", ("name",), None),
        ("name=a=b", ("name",), "a=b"),
        ("name='1'", ("name",), "1"),
        ("tags=[a, {b: 1}]", ("tags",), ["a", {"b": 1}]),
        ("model={width: 3}", ("model",), {"width": 3}),
        ("model.balance.0.rate=2", ("model", "balance", 0, "rate"), 2),
        ("model.balance.1=nudge", ("model", "balance", 1), "nudge"),
        ("model.balance.1.rate=2", ("model", "balance", 1), {"use": "penalty", "rate": 2}),
        ("model.router.k=4", ("model", "router"), {"use": "top-k", "k": 4}),
        ("model.router.use=bare", ("model", "router"), {"use": "bare"}),
        ("model.quantizer.use=ternary", ("model", "quantizer"), {"use": "ternary"}),
        ("train.optimizer.lr=2", ("train",), {"optimizer": {"lr": 2}}),
        ("domains.0.name=code", ("domains",), {"0": {"name": "code"}}),
    ],
)
def test_an_override_sets_one_place(override: str, location: tuple[str | int, ...], value: Any) -> None:
    changed = document(override)
    assert changed.at(location) == value


def test_the_original_is_left_alone() -> None:
    original = parse_config(TEXT, "run.yaml")
    value, sources = copy.deepcopy(original.value), dict(original.sources)
    apply_overrides(original, ["model.router.k=4", "model.balance.0.rate=2", "model.balance=[]", "new.key=1"])
    assert (original.value, original.sources) == (value, sources)


def test_later_overrides_see_earlier_ones() -> None:
    assert document("name=a", "name=b").value["name"] == "b"
    assert document("model.router=bare", "model.router.k=3").at(("model", "router")) == {"use": "bare", "k": 3}


def test_each_place_says_which_override_set_it() -> None:
    changed = document("seed=1", "model.router.k=4", "train={optimizer: {lr: 2}}")
    assert changed.where(("seed",)) == "command line, override 1: seed"
    assert changed.where(("model", "router", "k")) == "command line, override 2: model.router.k"
    assert changed.sources["model", "router", "use"] == "run.yaml:3:3"
    assert changed.where(("train", "optimizer", "lr")) == "command line, override 3: train.optimizer.lr"
    assert changed.where(("name",)) == "run.yaml:1:1: name"


def test_what_an_override_makes_on_its_way_is_its_own() -> None:
    assert document("trian.lr=1").where(("trian",)) == "command line, override 1: trian"
    assert document("model.quantizer.use=x").where(("model", "quantizer")).startswith("command line, override 1")


def test_nothing_remembers_what_was_replaced() -> None:
    changed = document("model.balance=[]")
    assert [location for location in changed.sources if location[:2] == ("model", "balance")] == [("model", "balance")]


def test_every_override_that_cannot_be_applied_is_reported() -> None:
    assert problems("name", "=3", "a..b=1", "name=ok", ".a=1") == [
        "command line, override 1: 'name' is not key.sub=value",
        "command line, override 2: '=3' is not key.sub=value",
        "command line, override 3: 'a..b=1' is not key.sub=value",
        "command line, override 5: '.a=1' is not key.sub=value",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.balance.2=x", "'model.balance' is a list and has no item '2'"),
        ("model.balance.-1=x", "'model.balance' is a list and has no item '-1'"),
        ("model.balance.rate=x", "'model.balance' is a list and has no item 'rate'"),
        ("model.balance.\u00b2=x", "'model.balance' is a list and has no item '\u00b2'"),
        ("model.balance.0.rate.x=1", "'model.balance.0.rate' is a plain value and has nothing below it"),
        ("name=[1", "not valid YAML"),
        ("name=1\nother: 2", "not valid YAML"),
        ("name={a: 1, a: 2}", "duplicate key 'a'"),
    ],
)
def test_an_override_that_cannot_be_applied_says_why(override: str, message: str) -> None:
    [problem] = problems(override)
    assert problem.startswith(f"command line, override 1: '{override}': ")
    assert message in problem


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(string.ascii_lowercase + ".=0[]{", max_size=8), max_size=4))
def test_any_override_is_applied_or_is_a_problem(overrides: list[str]) -> None:
    codes: set[str] = set()
    try:
        changed = document(*overrides)
    except ProblemError as error:
        changed, codes = document(), {problem.code for problem in error.problems}
    assert codes <= {"bad-override"}
    assert set(changed.sources) >= {(key,) for key in changed.value}


def test_a_file_is_read_with_its_overrides(tmp_path: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(TEXT)
    changed = read_config(path, ["name=y"])
    assert changed.value["name"] == "y"
    assert changed.where(("model",)) == f"{path}:2:1: model"


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Any) -> None:
    with pytest.raises(ProblemError, match="config file not found"):
        read_config(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProblemError, match="cannot be read as text"):
        read_config(tmp_path / "binary.yaml")
    with pytest.raises(ProblemError, match="a folder is not a config"):
        read_config(tmp_path)
