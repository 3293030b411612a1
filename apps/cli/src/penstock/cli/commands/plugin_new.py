"""`penstock plugins new`: writes a package with one working component, as a starting point.

The files are `string.Template` templates, in the wheel under `templates/`: `package/` has the files of every plugin,
`kinds/KIND/` the component, its settings and its test.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import click

from penstock.cli import output
from penstock.hooks.component import CONTRACTS, KINDS
from penstock.hooks.installed import canonical
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry

NUMPY, TORCH, CLICK = "numpy>=2.0", "torch>=2.11", "click>=8.2"


@dataclass(frozen=True, slots=True)
class Starter:
    """The template component of a kind: its summary, how a config uses it, its dependencies, its capabilities and its
    contract (None: the newest)."""

    summary: str
    use: str
    dependencies: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    contract: int | None = None


STARTERS: dict[str, Starter] = {
    "architecture": Starter(
        "A small mixture of experts with causal attention",
        "model: {use: NAME, router: {use: sigmoid-topk, k: 2}}",
        (TORCH,),
        ("causal", "compilable", "empty-batches", "mixed-precision", "noise-free", "token-ids"),
    ),
    "router": Starter(
        "Top-k of the cosine between token and expert",
        "model: {router: {use: NAME, k: 2}}",
        (TORCH,),
        (
            "batch-invariant",
            "causal",
            "compilable",
            "deterministic",
            "dropless",
            "empty-batches",
            "exact-gradient",
            "exactly-k",
            "no-host-sync",
            "normalized",
            "permutation-equivariant",
            "same-in-training",
            "trainable",
        ),
    ),
    "balance-loss": Starter(
        "Squared mean score of each expert",
        "model: {balance: [{use: NAME}]}",
        (TORCH,),
        (
            "compilable",
            "exact-gradient",
            "exact-in-fp64",
            "expert-symmetric",
            "load-balancing",
            "mean-over-tokens",
            "no-host-sync",
            "one-at-balance",
            "order-free",
        ),
    ),
    "balancer": Starter(
        "Bias in proportion to the load error",
        "model: {balance: [{use: NAME}]}",
        (TORCH,),
        ("expert-symmetric", "scale-free", "selection-bias"),
    ),
    "quantizer": Starter(
        "Integers with one scale per row",
        "model: {quantizer: {use: NAME, bits: 4}}",
        (TORCH,),
        (
            "compilable",
            "deterministic",
            "experts",
            "idempotent",
            "identity-gradient",
            "matrices",
            "odd",
            "scale-equivariant",
        ),
    ),
    "sharing": Starter(
        "One tensor for all parameters of a role",
        "model: {sharing: [{use: NAME}]}",
        contract=1,  # it adds no parameters, so a plan is enough
    ),
    "optimizer": Starter(
        "Steps by the sign of the momentum",
        "train: {optimizer: {use: NAME, lr: 0.001}}",
        (TORCH,),
        ("bf16-parameters",),
        contract=1,  # it steps element by element, so layouts would tell it nothing
    ),
    "schedule": Starter("A straight line up, then one down", "train: {schedule: {use: NAME}}"),
    "objective": Starter(
        "Next token of the later part of each window", "train: {objective: {use: NAME}}", (NUMPY, TORCH)
    ),
    "engine": Starter("One process on one device", "train: {engine: {use: NAME}}", (TORCH,)),
    "corpus": Starter("One document for each line of a file", "data: {corpus: {use: NAME, file: text.txt}}"),
    "filter": Starter(
        "Drops documents that are short",
        "data: {filters: [{use: NAME, characters: 20}]}",
        (),
        ("drops-only", "idempotent", "stateless"),
    ),
    "cleaner": Starter("Removes documents without a letter", "stages: [{use: NAME, letters: 1}]", (NUMPY,)),
    "task": Starter(
        "How often the first guess is right", "evaluate: {tasks: [{use: NAME}]}", (NUMPY, TORCH)
    ),  # torch for the laws
    "topology": Starter(
        "One switch that never blocks",
        "simulate: {topology: {use: NAME}}",
        (NUMPY,),
        ("interchangeable", "monotone", "subadditive"),
    ),
    "placement": Starter(
        "Heaviest expert to the idlest GPU",
        "simulate: {placement: {use: NAME}}",
        (NUMPY,),
        ("equal-slots", "load-aware"),
    ),
    "exporter": Starter("A model as numpy arrays", "penstock export RUN --format NAME", (NUMPY, TORCH)),
    "server": Starter("LMDeploy, in an environment of its own", "penstock serve MODEL --server NAME"),
    "launcher": Starter("One process for each job", "launcher: {use: NAME}"),
    "stop-rule": Starter(
        "Stops cells that are far behind the best", "stop: {use: NAME, distance: 0.1}", (NUMPY,), ("any-tokenizer",)
    ),
    "tracker": Starter(
        "Metrics as rows of a CSV file", "train: {trackers: [{use: NAME}]}", (), ("durable", "exact-resume", "local")
    ),
    "observer": Starter(
        "Share of the busiest expert of each layer", "train: {observers: [{use: NAME}]}", (NUMPY,), ("exact-resume",)
    ),
    "section": Starter("A larger model to learn from", "NAME: {weight: 0.25}"),
    "command": Starter("Counts the installed components by kind", "penstock NAME", (CLICK,)),
}


@click.command("new")
@click.argument("kind", type=click.Choice(sorted(KINDS)), metavar="KIND")
@click.argument("name")
@click.option("--into", type=click.Path(path_type=Path), default=Path(), help="Parent folder of the new package.")
@click.option("--distribution", help="Name of the package (default: NAME).")
@output.json_option
@click.pass_obj
def new_plugin(
    registry: Registry, kind: str, name: str, into: Path, distribution: str | None, as_json: bool
) -> dict[str, Any]:
    """Write a package with a working component of KIND called NAME, ready to be edited.

    KIND is a component kind such as router or corpus; `penstock plugins list` shows all kinds.
    """
    folder, contents = render(kind, name, distribution or name)
    written = write(into / folder, contents)
    taken = [entry.id for entry in registry.entries(kind) if entry.component.name == name]
    if taken:
        output.note(f"{kind} '{name}' is also provided by {', '.join(taken)}: write `{folder}:{name}` to choose yours")
    result = {
        "folder": str(into / folder),
        "files": [str(path) for path in written],
        "next": [
            f"cd {into / folder}",
            "uv pip install --editable .",
            f"penstock plugins check {name.replace('-', '_') if kind == 'section' else name} --kind {kind}",
        ],
    }
    output.print_result(result, as_json, lambda: "\n".join([*result["files"], "", "now:", *result["next"]]))
    return result


def render(kind: str, name: str, distribution: str) -> tuple[str, dict[str, str]]:
    """The folder of a new package, and its files by path; raises `ProblemError` with every invalid name."""
    module, import_name = name.replace("-", "_"), canonical(distribution).replace("-", "_")
    problems = [*_name_problems(name, module), *_distribution_problems(distribution, import_name)]
    if problems:
        raise ProblemError(problems)
    starter = STARTERS[kind]
    class_name = "".join(part.capitalize() for part in name.split("-"))
    target = module if kind == "command" else class_name
    has_config = _template(f"kinds/{kind}/config.py") is not None
    settings = f"{import_name}.config:{class_name}Config" if has_config else None
    if kind == "section":  # is nothing but settings, and a command reads it as an attribute
        name, settings = module, f"{import_name}.{module}:{target}"
    values = {
        "kind": kind,
        "hook": KINDS[kind],
        "name": name,
        "module": module,
        "class_name": class_name,
        "target": target,
        "distribution": canonical(distribution),
        "import_name": import_name,
        "summary": starter.summary,
        "dependencies": ", ".join(f'"{each}"' for each in ("penstock-hooks>=0.1", *starter.dependencies)),
        "config_line": f'            config="{settings}",\n' if settings else "",
        "capabilities_line": _capabilities_line(starter.capabilities),
        "contract_line": _contract_line(starter.contract or CONTRACTS[kind].newest),
        "config_row": f"| `src/{import_name}/config.py` | its settings, each with a default and a reason |\n"
        if has_config
        else "",
        "use": _use(starter.use.replace("NAME", name)),
    }
    sources = {
        "pyproject.toml": "package/pyproject.toml",
        "README.md": "package/README.md",
        f"src/{import_name}/__init__.py": "package/init.py",
        f"src/{import_name}/plugin.py": "package/plugin.py",
        f"src/{import_name}/config.py": f"kinds/{kind}/config.py",
        f"src/{import_name}/{module}.py": f"kinds/{kind}/component.py",
        "tests/test_contract.py": "package/test_contract.py",
        f"tests/test_{module}.py": f"kinds/{kind}/test.py",
    }
    templates = {path: _template(source) for path, source in sources.items()}
    rendered = {path: template.substitute(values) for path, template in templates.items() if template is not None}
    return values["distribution"], {**rendered, f"src/{import_name}/py.typed": ""}


def write(folder: Path, contents: Mapping[str, str]) -> list[Path]:
    """Writes a package to a new folder; raises `ProblemError` if the folder exists."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        fix = "give another name, or another folder with --into"
        raise ProblemError(Problem("folder-exists", "the folder already exists", str(folder), fix)) from None
    except OSError as error:
        what = f"the folder cannot be made ({error.strerror})"
        raise ProblemError(Problem("cannot-write", what, str(folder))) from error
    for path, text in sorted(contents.items()):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in sorted(contents)]


def _template(path: str) -> Template | None:
    resource = files("penstock.cli").joinpath("templates", f"{path}.template")
    return Template(resource.read_text(encoding="utf-8")) if resource.is_file() else None


def _contract_line(contract: int) -> str:
    """A component that does not say which contract it keeps is of the first."""
    return f"            contract={contract},\n" if contract > 1 else ""


def _capabilities_line(capabilities: tuple[str, ...]) -> str:
    """The argument as a formatter would leave it."""
    quoted = [f'"{each}"' for each in sorted(capabilities)]
    line = f"            capabilities=frozenset({{{', '.join(quoted)}}}),\n"
    if len(line) <= 121:
        return line if quoted else ""
    items = "".join(f"                    {each},\n" for each in quoted)
    return f"            capabilities=frozenset(\n                {{\n{items}                }}\n            ),\n"


def _use(line: str) -> str:
    """How the component is used, as the README shows it: a line of a config or of a shell."""
    if line.startswith("penstock "):
        return f"```sh\n{line}\n```"
    return f"In a run's config:\n\n```yaml\n{line}\n```"


def _name_problems(name: str, module: str) -> list[Problem]:
    where = "NAME"
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        what = f"'{name}' is no name: lower-case words with hyphens between them"
        return [Problem("bad-name", what, where, "write for example cosine-topk")]
    if keyword.iskeyword(module) or module in ("plugin", "config"):
        what = f"'{name}' cannot be the name of the component's module"
        return [Problem("bad-name", what, where, "write for example cosine-topk")]
    return []


def _distribution_problems(distribution: str, import_name: str) -> list[Problem]:
    where = "--distribution"
    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?", distribution):
        what = f"'{distribution}' cannot be the name of a package"
        return [Problem("bad-name", what, where, "use letters, digits and hyphens")]
    if keyword.iskeyword(import_name) or importlib.util.find_spec(import_name) is not None:
        what = f"the package would be imported as '{import_name}', but a module of that name is installed"
        return [Problem("bad-name", what, where, "give the package another name with --distribution")]
    return []
