"""Laws of commands: a `click.Command` that tells what it does. None is run beyond its help."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.testing import CliRunner

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in

COMMAND = "command"


@law(COMMAND)
def the_target_is_a_click_command(subject: Subject) -> None:
    """The target is a `click.Command` (a `click.Group` is one too).

    Name the decorated function in `target`, not a function that returns it.
    """
    target = subject.component.load_target()
    expect(isinstance(target, click.Command), f"the target is a {type(target).__name__}")


@law(COMMAND, needs=(the_target_is_a_click_command,))
def it_takes_no_settings(subject: Subject) -> None:
    """A command has no schema: it is configured by its options.

    Leave `config` out, and make the settings options.
    """
    expect(subject.component.config is None, f"the schema is {subject.component.config}")


@law(COMMAND, needs=(the_target_is_a_click_command,))
def help_is_shown(subject: Subject) -> None:
    """`--help` of the command and of each of its subcommands ends with exit code 0.

    Check files and settings when the command runs, not in group callbacks that run before the help.
    """
    command = _loaded(subject)
    for names, _ in _all(command):
        result = CliRunner().invoke(command, [*names, "--help"], prog_name=subject.component.name)
        shown = " ".join([subject.component.name, *names, "--help"])
        expect(result.exit_code == 0, f"`{shown}` ends with {result.exit_code}: {result.exception!r}")


@law(COMMAND, needs=(the_target_is_a_click_command,))
def the_command_is_documented(subject: Subject) -> None:
    """The command and each of its subcommands have a description.

    The docstring of the function is the help; a group's subcommands each have one.
    """
    silent = [" ".join(names) or subject.component.name for names, each in _all(_loaded(subject)) if not each.help]
    expect(not silent, f"no help: {', '.join(silent)}")


@law(COMMAND, needs=(the_target_is_a_click_command,))
def options_are_documented(subject: Subject) -> None:
    """Every visible option has a help text, including those of subcommands.

    Write `click.option("--port", help="Where to listen.")`, or hide the option.
    """
    options = [
        option
        for _, each in _all(_loaded(subject))
        for option in each.params
        if isinstance(option, click.Option) and not option.hidden
    ]
    if not options:
        raise NotApplicable("the command has no options")
    bare = [option.opts[0] for option in options if not option.help]
    expect(not bare, f"no help: {', '.join(bare)}")


def _loaded(subject: Subject) -> click.Command:
    return subject.component.load_target()


def _all(command: click.Command, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The command and what is below it, with the words that lead there."""
    yield names, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _all(below, (*names, name))


LAWS = laws_in(globals())
