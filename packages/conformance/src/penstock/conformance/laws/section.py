"""Laws of sections: the part of a run's config that belongs to an app."""

from __future__ import annotations

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws import general
from penstock.hooks.schema import schema_of

SECTION = "section"


@law(SECTION, needs=(general.settings_are_arguments_of_the_target,))
def the_target_is_the_schema(subject: Subject) -> None:
    """`target` and `config` name the same `Schema`.

    A section is only its settings: name the class in both.
    """
    component = subject.component
    expect(component.target == component.config, f"the target is {component.target}, the schema {component.config}")


@law(SECTION)
def the_name_is_an_attribute(subject: Subject) -> None:
    """The name is one word of letters, digits and underscores.

    A command reads the section as `config.NAME`.
    """
    name = subject.component.name
    expect(name.isidentifier(), f"'{name}' is not the name of an attribute")


@law(SECTION, needs=(the_target_is_the_schema,))
def it_may_be_left_out(subject: Subject) -> None:
    """Every setting has a default.

    Installing an app must not invalidate configs without its section.
    """
    required = [name for name, field in schema_of(subject.entry).model_fields.items() if field.is_required()]
    expect(not required, f"no default: {', '.join(required)}")


LAWS = laws_in(globals())
