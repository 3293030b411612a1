"""`penstock plugins`: what is installed and whether it works."""

from __future__ import annotations

from typing import Any

import click

from penstock.cli import output
from penstock.hooks.component import KINDS, load_attribute
from penstock.hooks.discovery import Loaded
from penstock.hooks.registry import Registry

# Imported when they run: with the conformance kit and the schemas, `plugins list` would take three times as long.
SUBCOMMANDS = {
    "check": "penstock.cli.commands.plugin_check:check_plugin",
    "new": "penstock.cli.commands.plugin_new:new_plugin",
    "show": "penstock.cli.commands.plugin_show:show_plugin",
}


class Plugins(click.Group):
    """The commands of this module, and those of `SUBCOMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *SUBCOMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        path = SUBCOMMANDS.get(cmd_name)
        return super().get_command(ctx, cmd_name) if path is None else load_attribute(path)


@click.group(cls=Plugins)
def plugins() -> None:
    """List, show, check and begin plugins."""


@plugins.command("list")
@click.option("--kind", type=click.Choice(sorted(KINDS)), help="Only components of this kind.")
@output.json_option
@click.pass_obj
def list_plugins(registry: Registry, kind: str | None, as_json: bool) -> dict[str, Any]:
    """Every plugin with its state, and every component with who provides it."""
    states = [
        {
            "distribution": plugin.origin.distribution,
            "version": plugin.origin.version,
            "entry_point": plugin.origin.entry_point,
            "state": type(plugin).__name__.lower(),
            "cause": "" if isinstance(plugin, Loaded) else plugin.cause,
            "components": len(plugin.components) if isinstance(plugin, Loaded) else 0,
        }
        for plugin in registry.plugins
    ]
    components = [
        {
            "kind": entry.component.kind,
            "name": entry.component.name,
            "id": entry.id,
            "use": registry.name_of(entry),
            "behind": owner.id if (owner := registry.owner_of(entry)) else "",
            "version": entry.origin.version,
            "contract": entry.component.contract,
            "summary": entry.component.summary,
            "capabilities": sorted(entry.component.capabilities),
            "reference": entry.component.reference,
        }
        for entry in registry.entries(kind)
    ]
    result = {"plugins": states, "components": components}
    output.print_result(result, as_json, lambda: _text(states, components))
    return result


def _text(states: list[dict[str, Any]], components: list[dict[str, Any]]) -> str:
    loaded = sum(state["state"] == "loaded" for state in states)
    parts = [
        output.table(
            ("kind", "name", "from", "summary"),
            [(c["kind"], c["use"], c["id"].split(":")[0], c["summary"]) for c in components],
        ),
        output.table(
            ("plugin", "version", "entry point", "state", "components, or the reason it has none"),
            [
                (s["distribution"], s["version"], s["entry_point"], s["state"], s["cause"] or s["components"])
                for s in states
            ],
        ),
        *(f"`{c['name']}` is {c['behind']}, and `{c['id']}` another one" for c in components if c["behind"]),
        f"{len(components)} components; plugins: {loaded} loaded, {len(states) - loaded} not usable",
    ]
    return "\n\n".join(parts)
