"""What penstock-server offers: its command, and its server by name."""

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


@hookimpl
def servers() -> list[Component]:
    return [
        Component(
            kind="server",
            name="penstock",
            target="penstock.server.component:PenstockServer",
            summary="Our own: every model that we train, from runs, artifacts and folders",
            contract=2,
        ),
    ]
