"""Commands that break one law each."""

from __future__ import annotations

import click

from broken.described import described


@click.group()
def good() -> None:
    """Turns the wheel."""


@good.command()
@click.option("--speed", default=1.0, help="Turns a second.")
@click.option("--hidden", hidden=True)
def turn(speed: float, hidden: str | None) -> None:
    """Turns it once."""


def factory() -> click.Command:
    return good


@click.command(add_help_option=False)
def helpless() -> None:
    """Turns the wheel."""


@click.group()
def silent() -> None:
    """Turns the wheel."""


@silent.command("turn")
def silent_turn() -> None:
    pass


@click.command()
@click.option("--speed", default=1.0)
def bare(speed: float) -> None:
    """Turns the wheel."""


@click.command()
def configured() -> None:
    """Turns the wheel as a config says."""


of = described("command", "A command that breaks one law")
GOOD = of("broken.command:good")
BROKEN = {
    "command/the-target-is-a-click-command": of("broken.command:factory"),
    "command/it-takes-no-settings": of("broken.command:configured", config="broken.general:Settings"),
    "command/help-is-shown": of("broken.command:helpless"),
    "command/the-command-is-documented": of("broken.command:silent"),
    "command/options-are-documented": of("broken.command:bare"),
}
