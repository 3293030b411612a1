"""The root command. Listing, help and completion import no command; a broken command does not affect the others."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

import click

from penstock.cli import output
from penstock.hooks.discovery import Broken, Incompatible, Selection
from penstock.hooks.installed import ENTRY_POINTS
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.hooks.registry import Entry, Registry


class LazyCommand(click.Command):
    """A placeholder for a command until it runs: knows the name, the summary and where to import it from."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.component.name, help=entry.component.summary, add_help_option=False)
        self.entry = entry

    def load(self) -> click.Command:
        return self.entry.imported(self.entry.component.target)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        context = self.load().make_context(info_name, args, parent, **extra)
        from penstock.run import messages  # imports logging, for which lists and help need not wait

        context.with_resource(messages.shown(output.note, output.warn))
        return context


class Root(click.Group):
    """A group whose commands are the registry's components of kind `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        registry = _registry(ctx)
        return sorted(registry.name_of(entry) for entry in registry.entries("command"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _registry(ctx).lookup("command", cmd_name)
        return entry and LazyCommand(entry)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-"):
            _registry(ctx).get("command", args[0])  # raises with a hint, or warns about a second provider
        return super().resolve_command(ctx, args)


def _registry(ctx: click.Context) -> Registry:
    selection = Selection(
        no_plugins=ctx.params.get("no_plugins", False),
        only=ctx.params.get("only", ()),
        files=ctx.params.get("plugin_files", ()),
    )
    if not isinstance(ctx.obj, Registry):
        ctx.obj = Registry.discover(selection, cache(output.warn))  # cached, so that each warning is printed once
        _work_around_unreadable(ctx.obj)
        for plugin in ctx.obj.plugins:
            if isinstance(plugin, (Broken, Incompatible)):
                output.warn(f"plugin {plugin.origin.place} is not usable: {plugin.cause}")
    elif selection not in (Selection(), ctx.obj.selection):
        what = "plugins cannot be selected for an existing registry"
        raise ProblemError(Problem("bad-value", what, " ".join(selection.arguments()), "call it without a registry"))
    return ctx.obj


def _work_around_unreadable(registry: Registry) -> None:
    """pydantic and torch look for plugins of their own when they are imported, and raise for every distribution whose
    entry points cannot be read. Without this, one of these would stop every command that needs either."""
    if any(plugin.origin.entry_point == ENTRY_POINTS for plugin in registry.plugins):
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


# Eager, so that `--help` after them lists the commands of the selected plugins.
@click.command(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--no-plugins", is_flag=True, is_eager=True, help="Load only Penstock's own plugins.")
@click.option(
    "--only", multiple=True, metavar="NAME", is_eager=True, help="Load only this third-party plugin (repeatable)."
)
@click.option(
    "--plugin",
    "plugin_files",
    multiple=True,
    metavar="FILE.py",
    is_eager=True,
    help="Also load this file as a plugin (repeatable).",
)
@click.version_option(package_name="penstock")
def root(no_plugins: bool, only: tuple[str, ...], plugin_files: tuple[str, ...]) -> None:
    """Choose a router, a balancing rule, an optimizer and a quantizer; train, measure, simulate and export that sparse
    language model.

    Start with: penstock quickstart
    """


def run(args: list[str] | None = None, registry: Registry | None = None) -> Any:
    """Runs one command line in this process and returns the command's result; errors are raised. `registry` replaces
    the installed plugins."""
    try:
        return root.main(args, prog_name="penstock", standalone_mode=False, obj=registry)
    except click.Abort as error:
        if isinstance(error.__cause__, EOFError):  # click takes that of any code for a closed prompt
            raise error.__cause__ from None
        raise


def main(args: list[str] | None = None) -> None:
    """The console script: runs the command line and exits with an `ExitCode`."""
    output.outlive_stderr()
    code = _exit_code(args)
    try:
        output.flush_results()
    except ProblemError as error:
        code = output.print_problems(error)
    sys.exit(code)


def _exit_code(args: list[str] | None) -> int:
    try:
        with output.results_written():
            run(args)
    except ProblemError as error:
        return output.print_problems(error)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.FAILED
    return ExitCode.DONE
