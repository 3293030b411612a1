"""The root command. Listing, help and completion import no command; a broken command breaks itself alone."""

from __future__ import annotations

import sys
from typing import Any

import click

from penstock.cli import output
from penstock.hooks.discovery import Loaded
from penstock.hooks.problems import ExitCode, ProblemError
from penstock.hooks.registry import Entry, Registry


class LazyCommand(click.Command):
    """Stands for a command until it runs: knows its name and summary, and where to find it."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.component.name, help=entry.component.summary, add_help_option=False)
        self.entry = entry

    def load(self) -> click.Command:
        return self.entry.imported(self.entry.component.target)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        return self.load().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return ctx.command.invoke(ctx)


class Root(click.Group):
    """A group whose commands are the registry's components of kind `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _registry(ctx).names("command")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        registry = _registry(ctx)
        return LazyCommand(registry.get("command", cmd_name)) if cmd_name in registry.names("command") else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            _registry(ctx).get("command", args[0])  # says which package has it, or what was meant
        return super().resolve_command(ctx, args)


def _registry(ctx: click.Context) -> Registry:
    if not isinstance(ctx.obj, Registry):
        ctx.obj = Registry.discover()
        for plugin in ctx.obj.plugins:
            if not isinstance(plugin, Loaded):
                output.warn(f"plugin {plugin.origin} is not usable: {plugin.cause}")
    return ctx.obj


@click.command(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="penstock")
def root() -> None:
    """Choose a router, a balancing rule, an optimizer, a quantizer; train, measure, simulate and export exactly that
    sparse language model.

    Start with: penstock quickstart
    """


def run(args: list[str] | None = None, registry: Registry | None = None) -> Any:
    """Runs one command line in this process and returns what the command returned; errors are raised."""
    return root.main(args, prog_name="penstock", standalone_mode=False, obj=registry)


def main(args: list[str] | None = None) -> None:
    """The console script: runs the command line and ends the process with a code of `ExitCode`."""
    sys.exit(_exit_code(args))


def _exit_code(args: list[str] | None) -> int:
    try:
        root.main(args, prog_name="penstock", standalone_mode=False)
    except ProblemError as error:
        return output.print_problems(error)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.FAILED
    return ExitCode.DONE
