"""`penstock config`: checks and explains a config before anything runs. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.cli.options import config_argument, overrides_argument
from penstock.hooks.architecture import architecture_settings, layer_routers, quantizer_of_roles
from penstock.hooks.config import ConfigDocument, Setting, explain, json_schema
from penstock.hooks.contracts import ParameterRole
from penstock.hooks.contracts.weights import FULL_PRECISION
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.checks import export_notes, located, missing_files
from penstock.run.config import RunConfig, envelope_of, load_run_config


@click.group()
def config() -> None:
    """Validate and explain configs, and print their JSON Schema."""


@config.command()
@click.pass_obj
def schema(registry: Registry) -> dict[str, Any]:
    """JSON Schema of a run config, with every installed component and section merged in; for editors."""
    merged = json_schema(envelope_of(registry), registry)
    click.echo(json.dumps(merged, indent=2))
    return merged


@config.command()
@config_argument
@overrides_argument
@output.json_option
@click.pass_obj
def validate(registry: Registry, config_file: Path, overrides: tuple[str, ...], as_json: bool) -> dict[str, Any]:
    """Find every problem of a config without importing torch. Exits with code 2 if there are any."""
    try:
        run_config, document = load_run_config(config_file, overrides, registry)
        missing = [f"not on this machine: {located(each, document)}" for _, each in missing_files(run_config)]
        notes, problems, error = [*export_notes(run_config), *missing], [], None
    except ProblemError as raised:
        notes, problems, error = [], [problem.as_dict() for problem in raised.problems], raised
    result = {"config": str(config_file), "valid": error is None, "problems": problems, "notes": notes}
    for note in notes:
        output.note(note)
    if error is None or as_json:
        output.print_result(result, as_json, lambda: f"{config_file}: valid")
    if error is not None:
        if as_json:
            raise SystemExit(error.exit_code)
        raise error
    return result


@config.command("explain")
@config_argument
@click.argument("path", required=False, default="")
@click.option("--set", "overrides", multiple=True, metavar="KEY.SUB=VALUE", help="Override a value before explaining.")
@output.json_option
@click.pass_obj
def explain_command(
    registry: Registry, config_file: Path, path: str, overrides: tuple[str, ...], as_json: bool
) -> list[dict[str, Any]]:
    """Who set each value at or below PATH (such as train.optimizer or layers.2.mlp), and on which line.

    The PATH storage says how the parameters of each role are stored.
    """
    run_config, document = load_run_config(config_file, overrides, registry)
    match path.split(".")[0]:
        case "layers":
            settings = explain_layer(run_config, document, registry, path)
        case "storage":
            settings = explain_storage(run_config, document, registry, path)
        case _:
            settings = explain(run_config, document, registry, path)
    result = [{"path": setting.path, "value": setting.value, "source": setting.source} for setting in settings]
    output.print_result(
        result,
        as_json,
        lambda: output.table(("path", "value", "set by"), [(s.path, json.dumps(s.value), s.source) for s in settings]),
    )
    return result


def explain_storage(run_config: RunConfig, document: ConfigDocument, registry: Registry, path: str) -> list[Setting]:
    """The storage format of each role of the model, and which part of the config gave it to the role."""
    settings = architecture_settings(run_config.model)
    quantizers = quantizer_of_roles(settings)
    rows: list[Setting] = []
    for role in (role for role in ParameterRole if role not in settings.absent_roles):
        if role not in quantizers:
            rows.append(Setting(f"storage.{role}", FULL_PRECISION, "no quantizer"))
            continue
        owner, _ = quantizers[role]
        rows += [
            Setting(f"storage.{role}{setting.path.removeprefix(owner)}", setting.value, f"{setting.source} ({owner})")
            for setting in explain(run_config, document, registry, owner)
            if setting.path != f"{owner}.roles"
        ]
    found = [row for row in rows if f"{row.path}.".startswith(f"{path}.")]
    if not found:
        roles = ", ".join(role for role in ParameterRole if role not in settings.absent_roles)
        what = f"the model stores no '{path}'"
        raise ProblemError(Problem("unknown-path", what, document.name, f"its roles are {roles}"))
    return found


def explain_layer(run_config: RunConfig, document: ConfigDocument, registry: Registry, path: str) -> list[Setting]:
    """The router of one layer and which part of the config gave it to the layer."""
    settings = architecture_settings(run_config.model)
    by_name = {f"layers.{layer}.mlp": layer for layer in settings.expert_layers}
    name = ".".join(path.split(".")[:3])
    if name not in by_name:
        raise ProblemError(
            Problem(
                "unknown-path",
                f"the model has no mixture-of-experts layer '{path}'",
                document.name,
                f"there are {', '.join(by_name)}" if by_name else "no layer takes a router from the config",
            )
        )
    chosen = layer_routers(settings, settings.expert_layers)[by_name[name]]
    owner = next(
        (
            f"model.overrides.{position}.router"
            for position, override in enumerate(settings.overrides)
            if override.router is chosen
        ),
        "model.router",
    )
    return [
        Setting(f"{name}.router{setting.path.removeprefix(owner)}", setting.value, f"{setting.source} ({owner})")
        for setting in explain(run_config, document, registry, owner)
    ]
