"""Laws of every component: what its description promises before it is built."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.hooks.schema import NoSettings, Schema, descriptions, schema_of
from penstock.hooks.single_file import find_spec

ANY = "any"


@law(ANY)
def the_summary_is_one_line(subject: Subject) -> None:
    """The summary says in one line what the component is.

    `plugins list` and `--help` show it: write at least three words and no line break.
    """
    summary = subject.component.summary
    expect("\n" not in summary and len(summary.split()) >= 3, f"the summary is {summary!r}")


@law(ANY)
def capabilities_are_known(subject: Subject) -> None:
    """Every declared capability is a known capability of the kind.

    `penstock.conformance.capabilities(kind)` lists them with what each promises.
    """
    from penstock.conformance.kit import capabilities

    known = capabilities(subject.component.kind)
    unknown = sorted(subject.component.capabilities - known.keys())
    expect(not unknown, f"{', '.join(unknown)} is not among {', '.join(sorted(known)) or 'none'}")


@law(ANY)
def the_description_imports_no_torch(subject: Subject) -> None:
    """Importing the config's module leaves torch unimported.

    Listing, completion and validation must stay fast: keep the schema in a module that imports nothing heavy, and let
    `target` name another one.
    """
    if subject.component.config is None:
        raise NotApplicable("the component takes no settings")
    module = subject.component.config.split(":")[0]
    if find_spec(module.partition(".")[0]) is None:
        raise NotApplicable("a plugin file holds the description and the code in one module")
    code = f"import sys; sys.path[:] = {sys.path!r}; import {module}; sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expect(result.returncode == 0, f"importing {module} imports torch, or fails: {result.stderr[-300:]}")


@law(ANY)
def fields_are_documented(subject: Subject) -> None:
    """Every setting is documented.

    A docstring under the field of the schema is its documentation, shown by `plugins show` and in editors.
    """
    bare = _schema(subject).model_fields.keys() - descriptions(_schema(subject)).keys()
    expect(not bare, f"no description: {', '.join(sorted(bare))}")


@law(ANY)
def settings_are_arguments_of_the_target(subject: Subject) -> None:
    """The target takes every setting as a keyword argument of the same name.

    `target(**settings, **context)` is how a run builds the component; give both the same names.
    """
    fields = set(_schema(subject).model_fields) - _added_by_the_kind(subject)
    parameters = inspect.signature(subject.component.load_target()).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        raise NotApplicable("the target takes any keyword argument")
    missing = sorted(fields - {parameter.name for parameter in parameters})
    expect(not missing, f"the target does not accept {', '.join(missing)}")


@law(ANY)
def settings_survive_a_config_file(subject: Subject) -> None:
    """Settings are unchanged after being written to a config file and read back.

    A run is repeated from `config.resolved.yaml`: every value must have a form in YAML that validates to itself.
    """
    from penstock.hooks.config import dump_config, parse_config

    first = subject.choice().settings
    if first is None:
        raise NotApplicable("the component takes no settings")
    written: Any = parse_config(dump_config(first.model_dump(mode="json"))).value
    again = Subject(subject.entry, subject.registry, subject.folder, written or {}).choice().settings
    expect(first == again, f"{first!r} came back as {again!r}")


def _schema(subject: Subject) -> type[Schema]:
    schema = schema_of(subject.entry)
    if schema is NoSettings:
        raise NotApplicable("the component takes no settings")
    return schema


def _added_by_the_kind(subject: Subject) -> set[str]:
    """Fields that the application uses up: it builds what they name."""
    from penstock.hooks.architecture import BUILT

    return set(BUILT) if subject.component.kind == "architecture" else set()


LAWS = laws_in(globals())
