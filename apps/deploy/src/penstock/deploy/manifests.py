"""`penstock dashboards` and `penstock manifests`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click

from penstock.cli import output
from penstock.hooks.atomic import write_text
from penstock.hooks.contracts.serving import Profile, Server, ServerProcess, Serving
from penstock.hooks.document import parse_value
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry

OURS = "penstock"
out_argument = click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
replace_option = click.option("--replace", is_flag=True, help="Replace files that have other content.")


@click.command()
@out_argument
@replace_option
@output.json_option
def dashboards(out: Path, replace: bool, as_json: bool) -> dict[str, Any]:
    """Write dashboards for Grafana and alert rules for Prometheus into OUT: of servers (`penstock serve`), of runs that
    train (the observer `prometheus`), and of the load of experts in both.

    `penstock manifests` writes them with a compose file that starts Prometheus and Grafana.
    """
    from penstock.serve.dashboards.files import files

    return _told(out, write(files(), out, replace=replace), as_json)


@click.command()
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@out_argument
@click.argument("options", metavar="[-- OPTIONS]", nargs=-1)
@click.option(
    "--server",
    default=OURS,
    show_default=True,
    help="Who serves: NAME or {use: NAME, ...}, such as '{use: vllm, device: cuda}'.",
)
@click.option(
    "--profile",
    default="balanced",
    show_default=True,
    type=click.Choice(get_args(Profile)),
    help="What the server is tuned for: the first token, both, or tokens a second.",
)
@click.option("--name", default="penstock-server", show_default=True, help="Name of the deployment.")
@click.option("--model-name", help="Name of the model in the interface. Default: the last part of MODEL.")
@click.option("--image", help="Image that has the server. Default, for penstock: one that the Dockerfile builds.")
@click.option("--no-key", is_flag=True, help="Let requests come without a key.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1024, 65535), help="Port of the server.")
@click.option(
    "--cpus", default=2.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Cores of a server."
)
@click.option(
    "--memory", default=4.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="GiB of a server."
)
@click.option("--gpus", default=0, show_default=True, type=click.IntRange(min=0), help="GPUs of a server.")
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(min=0), help="Servers in Kubernetes.")
@click.option(
    "--drain",
    default=30,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seconds that running requests get before a server ends.",
)
@replace_option
@output.json_option
@click.pass_obj
def manifests(
    registry: Registry,
    model: Path,
    out: Path,
    options: tuple[str, ...],
    server: str,
    profile: Profile,
    name: str,
    model_name: str | None,
    image: str | None,
    no_key: bool,
    port: int,
    cpus: float,
    memory: float,
    gpus: int,
    replicas: int,
    drain: int,
    replace: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Write what deploys a server of MODEL into OUT: a Dockerfile, a compose file with Prometheus and Grafana, and
    Kubernetes manifests. OPTIONS are more of the server's own, such as `-- --slots 64 --context 4096`.

    Requests need a key: `PENSTOCK_API_KEY=... docker compose up` in OUT, or a secret in Kubernetes.
    """
    from penstock.serve.manifests.deployment import Resources, deployment_of
    from penstock.serve.manifests.files import files

    model = model.expanduser().resolve()
    asked: Any = parse_value(server, "--server")[0]
    choice = registry.choose("server", asked, "--server")
    if choice.entry.component.name == OURS:
        options = ("--drain", str(drain), *options)
    elif image is None:
        what, fix = f"no image of {choice.entry.component.name} is named", "name one that has it"
        raise ProblemError(Problem("missing-value", what, "--image", fix))
    key = () if no_key else ("its-value-stands-in-no-file",)
    serving = Serving(model, "0.0.0.0", port, model_name, keys=key, profile=profile)
    deployment = deployment_of(
        _process(choice.build(), serving),
        model,
        name=name,
        image=image,
        port=port,
        options=options,
        resources=Resources(cpus, memory, gpus),
        replicas=replicas,
        drain=drain,
    )
    return _told(out, write(files(deployment), out, replace=replace), as_json)


def _process(server: Server, serving: Serving) -> ServerProcess:
    if problems := server.problems(serving):
        raise ProblemError(problems)
    return server.process(serving)


def write(files: Mapping[str, str], folder: Path, *, replace: bool = False) -> list[Path]:
    """Writes files into a folder by their paths. Raises `ProblemError`, before it writes any, where one is there with
    other content and `replace` is not set, and where a file is in the place of a folder."""
    paths = {folder / path: text for path, text in files.items()}
    problems = [
        _blocked(each) for each in sorted({parent for path in paths for parent in path.parents}) if each.is_file()
    ]
    if not replace:
        problems += [_other(path) for path, text in paths.items() if path.is_file() and _differs(path, text)]
    if problems:
        raise ProblemError(problems)
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return list(paths)


def _differs(path: Path, text: str) -> bool:
    return path.read_bytes() != text.encode()


def _other(path: Path) -> Problem:
    return Problem("file-not-ours", "has other content", str(path), "give another folder, or --replace")


def _blocked(path: Path) -> Problem:
    return Problem("not-a-folder", "a file is where a folder is needed", str(path), "give another folder")


def _told(folder: Path, paths: list[Path], as_json: bool) -> dict[str, Any]:
    result = {"folder": str(folder), "files": [str(path.relative_to(folder)) for path in paths]}
    output.print_result(result, as_json, lambda: "\n".join([f"{folder}:", *(f"  {each}" for each in result["files"])]))
    return result
