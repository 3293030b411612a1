"""What penstock-server offers: its command."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="serve",
            target="penstock.server.command:serve",
            summary="Serve a model over an OpenAI-compatible HTTP interface",
        ),
    ]
