"""Components of this package; imports nothing heavy."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl


@hookimpl
def launchers() -> list[Component]:
    return [
        Component(
            kind="launcher",
            name="local",
            target="penstock.run.launchers.local:LocalLauncher",
            config="penstock.run.launchers.config:LocalConfig",
            summary="Worker processes on this machine, one thread and one core each",
        ),
    ]
