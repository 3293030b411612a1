"""What penstock-profile offers: its command."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="profile",
            target="penstock.profile.command:profile",
            summary="Show which experts a run or a model chooses, for which text, or those of a trace file",
        ),
    ]
