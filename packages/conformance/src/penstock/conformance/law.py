"""What the conformance kit is made of: laws, and the component that a law is held against.

A law is a function whose docstring is its documentation: the first line says what holds, the rest what to do if it does
not. It gets a `Subject`, and raises `Violation` (through `expect`) or `NotApplicable`; whatever else it raises is a
violation too, since a component that fails to answer keeps no law.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from penstock.hooks.component import Component
from penstock.hooks.registry import Choice, Entry, Registry
from penstock.hooks.schema import schema_of
from penstock.hooks.validation import validate_settings


class Violation(AssertionError):
    """The component breaks the law; the message says what was seen."""


class NotApplicable(Exception):
    """The law says nothing about this component; the message says why."""


def expect(holds: object, seen: str) -> None:
    """Raises `Violation` with what was seen unless `holds`."""
    if not holds:
        raise Violation(seen)


@dataclass(frozen=True)
class Subject:
    """A component under test.

    `folder` is an empty folder that the law may write to, a new one for each law. `settings` are those given to the
    check; None uses the example of the component's schema. `registry` knows the components that settings name.
    """

    entry: Entry
    registry: Registry
    folder: Path
    settings: Mapping[str, Any] | None = None

    @property
    def component(self) -> Component:
        return self.entry.component

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """The settings as a config would have them."""
        return schema_of(self.entry).example(self.folder) if self.settings is None else self.settings

    def choice(self, **changes: Any) -> Choice:
        """The component with its settings, with changes applied, validated by its schema."""
        return Choice(self.entry, validate_settings(self.entry, {**self.fields, **changes}, self.registry))

    def build(self, changes: Mapping[str, Any] | None = None, **context: Any) -> Any:
        """A new object of the component, as a run builds it: settings and context as keyword arguments."""
        return self.choice(**(changes or {})).build(**context)

    def has_field(self, name: str) -> bool:
        """Whether the component's schema has a setting of this name."""
        return name in schema_of(self.entry).model_fields

    def claims(self, capability: str) -> bool:
        """Whether the component declares the capability."""
        return capability in self.component.capabilities


@dataclass(frozen=True, slots=True)
class Law:
    """`test` raises if the component breaks the law.

    `needs` names all laws that this one depends on: it is not reached if one of them is broken. A law with a
    `capability` holds for exactly the components that declare it: a component that declares it must keep the law, and
    one that keeps the law must declare it.
    """

    id: str
    statement: str
    remedy: str
    test: Callable[[Subject], None]
    needs: tuple[str, ...] = ()
    capability: str = ""


@dataclass(frozen=True, slots=True)
class law:
    """Makes a function a `Law` whose id is `KIND/function-name`.

    >>> @law("schedule")
    ... def a_factor_is_finite(subject):
    ...     '''A factor is a finite number.
    ...
    ...     Check the formula at progress 0 and 1.'''
    >>> a_factor_is_finite.id, a_factor_is_finite.remedy
    ('schedule/a-factor-is-finite', 'Check the formula at progress 0 and 1.')
    """

    kind: str
    needs: tuple[Law, ...] = field(default=(), kw_only=True)
    capability: str = field(default="", kw_only=True)

    def __call__(self, test: Callable[[Subject], None]) -> Law:
        statement, _, remedy = inspect.cleandoc(test.__doc__ or "").partition("\n\n")
        if not statement or not remedy:
            raise ValueError(
                f"law {test.__name__}: the docstring needs a first line that says what holds, then what to do"
            )
        name = f"{self.kind}/{test.__name__.replace('_', '-')}"
        needs = tuple(dict.fromkeys(each for needed in self.needs for each in (*needed.needs, needed.id)))
        return Law(name, " ".join(statement.split()), " ".join(remedy.split()), test, needs, self.capability)


def laws_in(module: Mapping[str, object]) -> tuple[Law, ...]:
    """The laws that a module defines, in order of definition: `LAWS = laws_in(globals())`."""
    return tuple(value for value in module.values() if isinstance(value, Law))


def by_id(laws: Iterable[Law]) -> dict[str, Law]:
    return {each.id: each for each in laws}
