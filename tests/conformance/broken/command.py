"""Commands that break one law each."""

from __future__ import annotations

import click

from penstock.hooks import Component


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


def of(target: str, config: str | None = None) -> Component:
    return Component(
        kind="command",
        name="broken",
        target=f"{__name__}:{target}",
        summary="A command that breaks one law",
        config=config,
    )


GOOD = of("good")
BROKEN = {
    "command/the-target-is-a-click-command": of("factory"),
    "command/it-takes-no-settings": of("configured", config="broken.general:Settings"),
    "command/help-is-shown": of("helpless"),
    "command/the-command-is-documented": of("silent"),
    "command/options-are-documented": of("bare"),
}
