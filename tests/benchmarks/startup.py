"""How long `penstock` takes to say something, against a bare click group over the same entry points.

The peer is the least that a command line with plugins can do: a `click.Group` that reads the entry-point group
`penstock` with `importlib.metadata` and lists each as a command with its value for help. It imports none of them,
checks nothing, and knows no component; `penstock --help` loads every plugin to list the commands they offer.

Floors: the interpreter alone, with click, and with click and importlib.metadata. Every case is a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from measure import Bar, finish, interleaved, json_option, rounds

ROOT = Path(__file__).parents[2]
SCRIPT = str(Path(sys.executable).with_name("penstock"))
HEAVY = {"torch", "numpy", "transformers"}

PEER = """
import importlib.metadata

import click


class Commands(click.Group):
    def list_commands(self, ctx):
        ctx.obj = importlib.metadata.entry_points(group="penstock")
        return sorted(ctx.obj.names)

    def get_command(self, ctx, name):
        return click.Command(name, help=ctx.obj[name].value)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def root():
    "A group of commands."


root()
"""

FLOORS = {
    "python": ["-c", "pass"],
    "python, click": ["-c", "import click"],
    "python, click, importlib.metadata": ["-c", "import click, importlib.metadata"],
    "bare click group": ["-c", PEER, "--help"],
}
COMMANDS = {
    "penstock --help": [SCRIPT, "--help"],
    "penstock plugins list": [SCRIPT, "plugins", "list"],
    "penstock config validate": [SCRIPT, "config", "validate", "configs/quickstart.yaml"],
}


def run(*arguments: str) -> str:
    """Runs the interpreter in the repository; returns what it wrote to stderr."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stderr


def imported(*arguments: str) -> set[str]:
    """Names of the modules that such a run imports."""
    lines = run("-X", "importtime", *arguments).splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@click.command(help=__doc__)
@rounds(25)
@json_option
def main(rounds: int, as_json: bool) -> None:
    cases = FLOORS | COMMANDS
    seconds = interleaved({name: partial(run, *arguments) for name, arguments in cases.items()}, rounds=rounds)
    modules = {name: imported(*arguments) for name, arguments in cases.items()}
    peer = seconds["bare click group"]
    rows: list[dict[str, Any]] = [
        {
            "process": name,
            "ms": seconds[name] * 1e3,
            "modules": len(modules[name]),
            "of bare group": seconds[name] / peer,
        }
        for name in cases
    ]
    heavy = [name for command in COMMANDS for name in modules[command] if name.partition(".")[0] in HEAVY]
    bars = [
        Bar("penstock --help / bare click group", seconds["penstock --help"] / peer, 1.5, at_least=False),
        Bar(f"modules of {', '.join(sorted(HEAVY))} imported", len(heavy), 0, at_least=False),
    ]
    finish("startup", rows, bars, as_json)


if __name__ == "__main__":
    main()
