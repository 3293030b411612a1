"""The docs for writers of plugins say everything that there is: hooks, exact arguments, settings, error codes, laws.
Their examples are run by test_readmes.py, the tutorial by test_tutorial.py."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.conformance import capabilities, laws_of
from penstock.hooks import KINDS, Registry, contracts, spec
from penstock.hooks.architecture import LayerOverride
from penstock.hooks.config import Schema
from penstock.hooks.registry import Entry
from penstock.hooks.schema import descriptions, schema_of
from penstock.run.config import envelope_of

WORKSPACE = Path(__file__).parents[1]
DOCS = WORKSPACE / "packages" / "hooks" / "docs"
HOOKS = (DOCS / "hooks.md").read_text()
COMPONENTS = Registry.discover().entries()


def section(hook: str) -> str:
    """The text under a hook's heading."""
    (text,) = re.findall(rf"^## {hook}\n(.*?)(?=^## |\Z)", HOOKS, re.M | re.S)
    return text


def call_of(hook: str) -> str | None:
    """How a target is called, as the hook's docstring has it; None where it is not."""
    call = re.search(r"`(target\(.*?\))`", " ".join((inspect.getdoc(getattr(spec, hook)) or "").split()))
    return call and call.group(1)


def contract_of(hook: str) -> Iterator[str]:
    """What is called and what it has to be, a line each: the call, then the attributes and methods of what the hook's
    docstring says is returned."""
    call = call_of(hook)
    returned = re.search(r"returns an? `([\w.]+)`", " ".join((inspect.getdoc(getattr(spec, hook)) or "").split()))
    if call is not None:
        yield call + (f" -> {returned.group(1)}" if returned else "")
    protocol = getattr(contracts, returned.group(1), None) if returned else None
    if protocol is not None:
        for each in (base for base in protocol.__mro__ if getattr(base, "_is_protocol", False)):
            yield from (f"    {name}: {annotation}" for name, annotation in inspect.get_annotations(each).items())
            yield from methods_of(each)


def methods_of(protocol: type) -> Iterator[str]:
    for name, member in vars(protocol).items():
        function = member.fget if isinstance(member, property) else member
        if inspect.isfunction(function) and (name == "__call__" or not name.startswith("_")):
            if isinstance(member, property):
                yield "    @property"
            yield f"    def {name}{inspect.signature(function)}: ...".replace("'", "")


@pytest.mark.parametrize("hook", KINDS.values())
def test_a_section_has_the_exact_call_and_every_method(hook: str) -> None:
    lines = section(hook).splitlines()
    assert [line for line in contract_of(hook) if line not in lines] == []


def test_the_exact_call_is_more_than_its_name() -> None:
    assert list(contract_of("routers")) == [
        "target(**schema, hidden_size=D, experts=E) -> Router",
        "    experts: int",
        "    k: int",
        "    e_score_correction_bias: Tensor | None",
        "    def __call__(self, hidden_TD: Tensor) -> Routing: ...",
    ]


@pytest.mark.parametrize(("kind", "hook"), KINDS.items())
def test_a_section_has_an_example_of_its_hook(kind: str, hook: str) -> None:
    example = "\n".join(re.findall(r"^```python\n(.*?)^```", section(hook), re.M | re.S))
    assert f"\n@hookimpl\ndef {hook}() -> list[Component]:\n" in example
    assert f'Component("{kind}", ' in example
    assert re.search(r"^assert ", example, re.M)


def test_there_is_no_section_of_a_hook_that_is_gone() -> None:
    assert sorted(re.findall(r"^## (\w+)$", HOOKS, re.M)) == sorted(KINDS.values())


def has_arguments(entry: Entry) -> bool:
    return call_of(KINDS[entry.component.kind]) is not None


def added_to(entry: Entry) -> str:
    """What a target of contract 2 is called with beside, as the hook's docstring has it."""
    docstring = " ".join((inspect.getdoc(getattr(spec, KINDS[entry.component.kind])) or "").split())
    return "".join(re.findall(r"From contract 2 on also with `(.*?)`", docstring))


@pytest.mark.parametrize("entry", list(filter(has_arguments, COMPONENTS)), ids=lambda entry: entry.id)
def test_our_targets_take_their_settings_and_what_the_call_names(entry: Entry) -> None:
    call = call_of(KINDS[entry.component.kind]) or ""
    context = set(re.findall(r"(\w+)=", call + (added_to(entry) if entry.component.contract >= 2 else "")))
    parameters = inspect.signature(entry.component.load_target()).parameters
    settings = schema_of(entry).model_fields.keys()  # a setting may have the name of what is handed over built
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        assert context - settings <= parameters.keys()
    else:
        assert parameters.keys() - settings == context - settings
        assert context <= parameters.keys()


def schemas_within(schema: type[Schema]) -> Iterator[type[Schema]]:
    """A schema and those that its fields hold."""
    yield schema
    for field in schema.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, Schema):
                yield from schemas_within(part)


def undescribed(schema: type[Schema]) -> list[str]:
    return [
        f"{each.__name__}.{name}"
        for each in schemas_within(schema)
        for name in each.model_fields
        if not descriptions(each).get(name, "").strip()
    ]


@pytest.mark.parametrize("entry", COMPONENTS, ids=lambda entry: f"{entry.component.kind}/{entry.id}")
def test_every_setting_of_a_component_says_what_it_is(entry: Entry) -> None:
    assert undescribed(schema_of(entry)) == []


def test_every_field_of_a_config_says_what_it_is() -> None:
    config = envelope_of(Registry.discover())
    assert undescribed(config) == []
    assert {each.__name__ for each in schemas_within(config)} >= {
        "TokenizerSettings",
        "TrainSettings",
        "EvaluateSettings",
    }


def test_a_setting_without_a_word_is_found_however_deep() -> None:
    class Inner(Schema):
        bare: int = 1

    class Outer(Schema):
        inner: list[Inner] = []
        """Said."""
        override: LayerOverride | None = None
        """Said too."""

    assert undescribed(Outer) == ["Inner.bare"]


RAISED = {"Problem", "failed"}


def codes_in(source: str) -> set[str]:
    """The codes of every `Problem(...)` and `failed(...)`, as far as they are literals."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    problems = [call for call in calls if getattr(call.func, "id", getattr(call.func, "attr", "")) in RAISED]
    named = [keyword.value for call in problems for keyword in call.keywords if keyword.arg == "code"]
    return set().union(*map(literals, [*named, *(call.args[0] for call in problems if call.args)]))


def literals(node: ast.expr) -> set[str]:
    if isinstance(node, ast.IfExp):
        return literals(node.body) | literals(node.orelse)
    return {str(node.value)} if isinstance(node, ast.Constant) else set()


def sources() -> list[Path]:
    return [path for part in ("packages", "apps", "plugins") for path in WORKSPACE.glob(f"{part}/*/src/**/*.py")]


def test_every_error_code_is_documented_and_no_other() -> None:
    raised = set().union(*(codes_in(path.read_text()) for path in sources()))
    documented = set(re.findall(r"^\| `([\w-]+)` \|", (DOCS / "errors.md").read_text(), re.M))
    assert raised - documented == set()
    everything = "\n".join(path.read_text() for path in sources())
    assert {code for code in documented if f'"{code}"' not in everything} == set()
    assert len(raised) > 60


def test_a_code_is_found_however_it_is_given() -> None:
    assert codes_in("Problem('bad-value', 'x y')") == {"bad-value"}
    assert codes_in("raise failed('not-finite', 'x y')") == {"not-finite"}
    assert codes_in("Problem(code='no-runs' if x else 'no-match', what='')") == {"no-runs", "no-match"}


def test_the_page_of_laws_is_the_kits() -> None:
    page = runpy.run_path(str(DOCS / "laws.py"))["page"]()
    assert (DOCS / "capabilities-and-laws.md").read_text() == page, "python packages/hooks/docs/laws.py renews it"


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_laws_has_every_law_and_capability(kind: str) -> None:
    page = (DOCS / "capabilities-and-laws.md").read_text()
    assert [law.id for law in laws_of(kind) if f"**`{law.id}`** {law.statement}" not in page] == []
    assert [name for name in capabilities(kind) if f"| `{name}` |" not in page] == []
