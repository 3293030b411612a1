from __future__ import annotations

from types import ModuleType

import pytest

from penstock.hooks import Choice, Component, ExitCode, Problem, ProblemError, Registry
from penstock.hooks.discovery import Blocked, Broken, Discovered, Incompatible, Loaded, Origin


def component(name: str, **changes: object) -> Component:
    return Component(**{"kind": "router", "name": name, "target": "builtins:dict", "summary": "", **changes})


def loaded(distribution: str, *names: str, version: str = "1.0") -> Loaded:
    return Loaded(Origin(distribution, version, "main"), tuple(component(name) for name in names))


def problem(registry: Registry, name: str, kind: str = "router") -> tuple[Problem, ExitCode]:
    with pytest.raises(ProblemError) as caught:
        registry.get(kind, name, "run.yaml:7:3")
    [found] = caught.value.problems
    assert found.where == "run.yaml:7:3"
    return found, caught.value.exit_code


def test_a_name_that_one_distribution_offers_is_enough() -> None:
    registry = Registry([loaded("acme", "mine"), loaded("zenith", "other")])
    assert registry.get("router", "mine").id == "acme:mine"
    assert registry.get("router", "zenith:other").id == "zenith:other"


def test_the_distribution_in_an_id_may_be_spelt_as_indexes_allow() -> None:
    assert Registry([loaded("acme-router", "mine")]).get("router", "Acme_Router:mine").id == "acme-router:mine"


def test_a_misspelt_name_gets_a_hint() -> None:
    found, code = problem(Registry([loaded("acme", "sigmoid", "softmax")]), "sigmiod")
    assert (found.code, code) == ("unknown-component", ExitCode.USAGE)
    assert str(found) == "run.yaml:7:3: unknown router 'sigmiod', did you mean 'sigmoid'?"


def test_a_missing_component_of_ours_names_its_package() -> None:
    found, code = problem(Registry([loaded("acme", "mine")]), "sigmoid-topk")
    assert found.fix == "`uv add penstock-routers` provides it"
    assert code is ExitCode.USAGE
    assert problem(Registry([]), "penstock-routers:sigmoid-topk")[0].fix == found.fix


def test_a_name_that_ours_does_not_have_is_not_blamed_on_installation() -> None:
    registry = Registry([loaded("penstock-routers", "softmax-topk")])
    assert problem(registry, "penstock-routers:sofmax-topk")[0].fix == "did you mean 'penstock-routers:softmax-topk'?"
    assert "uv add" not in problem(registry, "sigmoid-topk")[0].fix


def test_an_unknown_distribution_is_never_recommended_for_installation() -> None:
    found, _ = problem(Registry([loaded("penstock-routers", "softmax-topk")]), "penstok-routers:softmax-topk")
    assert "uv add" not in found.fix
    assert found.fix == ("no plugin of 'penstok-routers' is installed, did you mean 'penstock-routers:softmax-topk'?")


@pytest.mark.parametrize(
    ("plugin", "cause"),
    [
        (Broken(Origin("penstock-routers", "0.1.0", "r"), ImportError("no torch")), "ImportError: no torch"),
        (Blocked(Origin("penstock-routers", "0.1.0", "r")), "blocked by the user"),
        (
            Incompatible(Origin("penstock-routers", "0.1.0", "r"), (component("sigmoid-topk", contract=9),)),
            "router 'sigmoid-topk' needs contract 9, but this release supports 1",
        ),
    ],
)
@pytest.mark.parametrize("name", ["sigmoid-topk", "penstock-routers:sigmoid-topk"])
def test_a_component_of_an_unusable_plugin_says_why_and_ends_with_3(plugin: Discovered, cause: str, name: str) -> None:
    found, code = problem(Registry([plugin]), name)
    assert (found.code, code) == ("broken-plugin", ExitCode.PLUGIN)
    assert str(found) == f"run.yaml:7:3: router '{name}' is not usable, penstock-routers 0.1.0: {cause}"


def test_an_incompatible_third_party_is_known_by_what_it_offers() -> None:
    plugin = Incompatible(Origin("acme", "1.0", "main"), (component("mine", contract=9),))
    assert problem(Registry([plugin]), "mine")[0].code == "broken-plugin"


def test_a_broken_plugin_of_unknown_content_is_mentioned() -> None:
    plugins = [Broken(Origin("acme", "1.0", "main"), ImportError("x")), loaded("zenith", "other")]
    found, code = problem(Registry(plugins), "mine")
    told = "acme 1.0 may provide it, but did not load (ImportError: x)"
    assert (found.fix, code) == (f"known: other, {told}", ExitCode.PLUGIN)
    assert problem(Registry(plugins[:1]), "mine")[0].fix == told
    found, code = problem(Registry(plugins), "ohter")
    assert (found.fix, code) == (f"did you mean 'other'?, {told}", ExitCode.USAGE)


def test_a_name_with_two_owners_names_both_and_the_lines_to_write() -> None:
    registry = Registry([loaded("zenith", "mine", version="2.0"), loaded("acme", "mine")])
    found, code = problem(registry, "mine")
    assert (found.code, code) == ("ambiguous-component", ExitCode.USAGE)
    assert str(found) == (
        "run.yaml:7:3: router 'mine' is provided by acme 1.0 and zenith 2.0, "
        "write `use: acme:mine` or `use: zenith:mine`"
    )
    assert registry.get("router", "zenith:mine").origin.version == "2.0"


def test_the_short_name_of_one_of_ours_stays_its_own_and_the_use_of_it_is_not_silent() -> None:
    said: list[str] = []
    plugins = [loaded("acme", "sigmoid-topk", version="2.0"), loaded("penstock-routers", "sigmoid-topk")]
    registry = Registry(plugins, warn=said.append)
    ours, theirs = registry.get("router", "sigmoid-topk"), registry.get("router", "acme:sigmoid-topk")
    assert (ours.id, theirs.id) == ("penstock-routers:sigmoid-topk", "acme:sigmoid-topk")
    assert said == [
        "router 'sigmoid-topk' comes from penstock-routers 1.0; "
        "another one comes from acme 2.0, written `acme:sigmoid-topk`"
    ]
    assert [registry.name_of(entry) for entry in (ours, theirs)] == ["sigmoid-topk", "acme:sigmoid-topk"]
    assert [registry.owner_of(entry) for entry in (ours, theirs)] == [None, ours]


def test_the_short_name_of_one_of_ours_is_nobody_s_where_ours_is_not_there() -> None:
    missing, code = problem(Registry([loaded("acme", "sigmoid-topk")]), "sigmoid-topk")
    assert missing.fix == "`uv add penstock-routers` provides it, `acme:sigmoid-topk` is another one"
    assert code is ExitCode.USAGE
    plugins = [loaded("acme", "sigmoid-topk"), Broken(Origin("penstock-routers", "0.1.0", "r"), ImportError("x"))]
    assert problem(Registry(plugins), "sigmoid-topk")[1] is ExitCode.PLUGIN


def test_python_s_own_warnings_hear_of_a_shadow_where_nobody_else_is_told_to() -> None:
    registry = Registry([loaded("acme", "sigmoid-topk"), loaded("penstock-routers", "sigmoid-topk")])
    with pytest.warns(UserWarning, match="another one comes from acme"):
        registry.get("router", "sigmoid-topk")


def test_a_lookup_says_nothing_and_raises_nothing() -> None:
    registry = Registry([loaded("acme", "mine", "own"), loaded("zenith", "mine")], warn=pytest.fail)
    assert registry.lookup("router", "mine") is None
    assert registry.lookup("router", "other") is None
    own = registry.lookup("router", "own")
    assert own is not None
    assert registry.name_of(own) == "own"
    assert [registry.name_of(entry) for entry in registry.entries("router")] == ["acme:mine", "zenith:mine", "own"]


def test_a_distribution_that_offers_a_name_twice_is_told_so() -> None:
    found, _ = problem(Registry([loaded("acme", "mine"), loaded("acme", "mine")]), "acme:mine")
    assert "twice" in found.fix


def test_a_name_may_be_looked_up_in_several_kinds(registry: Registry) -> None:
    assert registry.find(["balance-loss", "balancer"], "nudge").component.kind == "balancer"
    with pytest.raises(ProblemError, match=r"unknown balance-loss or balancer 'nugde', did you mean 'nudge'\?"):
        registry.find(["balance-loss", "balancer"], "nugde")


def test_an_unknown_kind_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="unknown kind 'ruoter', did you mean 'router'"):
        Registry([]).get("ruoter", "x")


def test_entries_are_sorted_whatever_the_order_of_plugins() -> None:
    plugins = [loaded("zenith", "b", "a"), loaded("acme", "b")]
    assert [entry.id for entry in Registry(plugins).entries()] == ["zenith:a", "acme:b", "zenith:b"]
    assert Registry(plugins).entries() == Registry(reversed(plugins)).entries()
    assert Registry(plugins).names("router") == ["a", "b"]
    assert Registry(plugins).entries("task") == []


def test_building_passes_settings_and_context_to_the_target(registry: Registry) -> None:
    built = registry.build("router", {"use": "top-k", "k": 4}, experts=8)
    assert built == {"k": 4, "scale": 1.0, "experts": 8}
    assert registry.build("router", "top-k") == {"k": 2, "scale": 1.0}
    assert registry.build("router", "bare", experts=8) == {"experts": 8}


def test_a_nested_component_reaches_the_target_as_a_choice(registry: Registry) -> None:
    built = registry.build("router", {"use": "nested", "routers": ["bare"]})
    assert built["routers"] == [Choice(registry.get("router", "bare"))]


def test_a_choice_is_checked_against_the_component_s_own_schema(registry: Registry) -> None:
    with pytest.raises(ProblemError, match=r"router 'top-k': kk: unknown field, did you mean 'k'\?"):
        registry.choose("router", {"use": "top-k", "kk": 4})
    with pytest.raises(ProblemError, match=r"run\.yaml:7:3: k: unknown field"):
        registry.choose("router", {"use": "bare", "k": 4}, "run.yaml:7:3")


@pytest.mark.parametrize("settings", [{}, {"k": 4}, {"use": 3}, {"use": None}])
def test_a_choice_names_a_component(registry: Registry, settings: dict[str, object]) -> None:
    with pytest.raises(ProblemError, match="must be the name of a component of kind 'router'"):
        registry.choose("router", settings)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"config": "no_such_module:Settings"}, "ModuleNotFoundError: No module named 'no_such_module'"),
        ({"config": "acme_parts:Missing"}, "AttributeError"),
        ({"config": "acme_parts:not_a_schema"}, "its config 'acme_parts:not_a_schema' is not a Schema"),
        ({"target": "no_such_module:build"}, "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_code_that_cannot_be_imported_is_a_problem_of_its_plugin(
    parts: ModuleType, changes: dict[str, str], cause: str
) -> None:
    registry = Registry([Loaded(Origin("acme", "1.0", "main"), (component("mine", **changes),))])
    with pytest.raises(ProblemError, match=r"router 'mine' is not usable, acme 1\.0: ") as caught:
        registry.build("router", "mine")
    assert cause in str(caught.value)
    assert caught.value.exit_code is ExitCode.PLUGIN


def test_an_error_inside_the_target_keeps_its_own_type() -> None:
    registry = Registry([Loaded(Origin("acme", "1.0", "m"), (component("mine", target="builtins:int"),))])
    with pytest.raises(TypeError):
        registry.build("router", "mine", nonsense=1)
