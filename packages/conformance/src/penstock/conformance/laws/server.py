"""Laws of servers: what `command(model_folder, port)` says about the process that serves a model. None is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws import general

SERVER = "server"
PORT = 48_213


@law(SERVER, needs=(general.settings_are_arguments_of_the_target,))
def the_command_is_a_list_of_arguments(subject: Subject) -> None:
    """`command(model_folder, port)` returns a list of strings, the program first.

    Write `[sys.executable, "-m", "server", "--port", str(port)]`: there is no shell, and numbers must be strings.
    """
    command: Any = subject.build().command(subject.folder / "model", PORT)
    expect(isinstance(command, list), f"command returns a {type(command).__name__}")
    expect(command and command[0], "the list has no program")
    wrong = [argument for argument in command if not isinstance(argument, str)]
    expect(not wrong, f"not a string: {wrong[:1]!r}")


@law(SERVER, needs=(the_command_is_a_list_of_arguments,))
def the_command_names_the_model(subject: Subject) -> None:
    """An argument contains the path of the model folder.

    Pass `str(model_folder)` to the server.
    """
    folder = subject.folder / "model"
    expect(_naming(subject, folder, str(folder)), f"no argument has the folder {folder.name}")


@law(SERVER, needs=(the_command_is_a_list_of_arguments,))
def the_command_names_the_port(subject: Subject) -> None:
    """An argument contains the port.

    Pass `str(port)` to the server: the caller chose this free port and waits for the server there.
    """
    expect(_naming(subject, subject.folder / "model", str(PORT)), f"no argument has the port {PORT}")


@law(SERVER, needs=(the_command_names_the_model,))
def any_folder_is_one_argument(subject: Subject) -> None:
    """A folder name with spaces, quotes and dollar signs is one argument, unchanged.

    Build the list directly instead of splitting a string, and do not quote.
    """
    folder = subject.folder / 'my "best" model\'s $HOME'
    expect(_naming(subject, folder, str(folder)), f"no argument has the folder {folder.name}")


@law(SERVER, needs=(the_command_is_a_list_of_arguments,))
def the_command_is_the_caller_s(subject: Subject) -> None:
    """A second call returns the same list, even if the caller changed the first.

    Make a new list each time: callers append arguments.
    """
    server = subject.build()
    first: list[str] = server.command(subject.folder, PORT)
    expected = list(first)
    first.append("--added-by-the-caller")
    second: list[str] = server.command(subject.folder, PORT)
    expect(second == expected, f"first {expected}, then {second}")


def _naming(subject: Subject, folder: Path, what: str) -> bool:
    command: list[str] = subject.build().command(folder, PORT)
    return any(what in argument for argument in command)


LAWS = laws_in(globals())
