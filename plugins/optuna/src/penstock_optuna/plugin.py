"""What penstock-optuna offers: its command. Pruner and callback are imported from `pruner` and `callback`."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="export-study",
            target="penstock_optuna.command:export_study",
            summary="Write a sweep as an Optuna study",
        ),
    ]
