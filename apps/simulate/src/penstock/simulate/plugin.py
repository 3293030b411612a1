"""What penstock-simulate offers: its command and its section of a run's config."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="simulate",
            target="penstock.simulate.commands:simulate",
            summary="Predict all-to-all time from a routing trace, and check the prediction",
        ),
    ]


@hookimpl
def sections() -> list[Component]:
    return [
        Component(
            kind="section",
            name="simulate",
            target="penstock.simulate.config:SimulateSettings",
            config="penstock.simulate.config:SimulateSettings",
            summary="The network on which expert parallelism is predicted",
        ),
    ]
