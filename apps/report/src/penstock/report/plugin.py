"""What penstock-report offers: its command."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="report",
            target="penstock.report.command:report",
            summary="Write one self-contained HTML page about one run or several",
        ),
    ]
