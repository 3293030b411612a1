"""What the tests of the workspace read in a member's pyproject."""

from __future__ import annotations

from typing import Any


def module_of(member: dict[str, Any]) -> str:
    """The module that the member installs: uv's backend is told its name, scikit-build-core (where something is
    compiled) its folder."""
    tools = member["tool"]
    if "scikit-build" in tools:
        (folder,) = tools["scikit-build"]["wheel"]["packages"]
        return folder.replace("/", ".")
    return tools["uv"]["build-backend"]["module-name"]
