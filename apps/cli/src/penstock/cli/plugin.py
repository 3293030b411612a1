"""Components of the penstock distribution: the commands that need no other application."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="plugins",
            target="penstock.cli.commands.plugins:plugins",
            summary="List installed plugins and the components they offer",
        ),
        Component(
            kind="command",
            name="config",
            target="penstock.cli.commands.config:config",
            summary="Validate and explain configs, and print their JSON Schema",
        ),
    ]
