"""Laws of servers: what they say about the process that serves a model. None is started.

The model is a folder in the Hugging Face layout, of whose weights only the names are there; a server that reads another
format has its own through the settings of the check.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, cast, get_args

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.laws import general
from penstock.hooks.contracts.serving import Profile, ServerProcess, Serving
from penstock.hooks.problems import Problem, ProblemError

SERVER = "server"
PORT = 48_213
KEY = "sk-of-the-conformance-kit"
TENSORS = (
    "model.embed_tokens.weight",
    "model.layers.0.mlp.gate.weight",
    "model.layers.0.mlp.experts.0.up_proj.weight",
    "lm_head.weight",
)


@law(SERVER, needs=(general.settings_are_arguments_of_the_target,))
def a_process_is_arguments_variables_and_a_path(subject: Subject) -> None:
    """`process(serving)` returns a `ServerProcess`: arguments and variables are strings, the path begins with a slash.

    Write `[sys.executable, "-m", "server", "--port", str(port)]`: there is no shell, and numbers must be strings.
    """
    process: object = _process(subject)
    expect(isinstance(process, ServerProcess), f"process returns a {type(process).__name__}")
    assert isinstance(process, ServerProcess)
    expect(not isinstance(process.arguments, str), "the arguments are one string")
    expect(len(process.arguments) > 0 and process.arguments[0], "the arguments have no program")
    words: list[object] = [*process.arguments, *process.environment, *process.environment.values(), process.name]
    wrong = [word for word in words if not isinstance(word, str)]
    expect(not wrong, f"not a string: {wrong[:1]!r}")
    expect(process.ready.startswith("/"), f"the path is {process.ready!r}")
    expect(process.secrets <= process.environment.keys(), "a secret is no variable")


PROCESS = (a_process_is_arguments_variables_and_a_path,)


@law(SERVER, needs=PROCESS)
def the_command_names_the_model(subject: Subject) -> None:
    """An argument contains the path of the model.

    Pass `str(serving.model)` to the server.
    """
    model = _model(subject)
    expect(_naming(subject, str(model), model=model), f"no argument has {model.name}")


@law(SERVER, needs=PROCESS)
def the_command_names_where_it_listens(subject: Subject) -> None:
    """Arguments contain the host and the port.

    Pass both to the server: the caller chose them, and waits for the server there.
    """
    for what in ("127.0.0.2", str(PORT)):
        expect(_naming(subject, what, host="127.0.0.2"), f"no argument has {what}")


@law(SERVER, needs=(the_command_names_the_model,))
def any_path_is_one_argument(subject: Subject) -> None:
    """A path with spaces, quotes and dollar signs is one argument, unchanged.

    Build the list directly instead of splitting a string, and do not quote.
    """
    model = _model(subject, 'my "best" model\'s $HOME')
    expect(_naming(subject, str(model), model=model), f"no argument has {model.name}")


@law(SERVER, needs=PROCESS)
def a_process_is_the_caller_s(subject: Subject) -> None:
    """A second call describes the same process, even if the caller changed the first.

    Make new lists and mappings each time: callers append arguments.
    """
    server, serving = subject.build(), _serving(subject)
    first = server.process(serving)
    expected = (list(first.arguments), dict(first.environment))
    if isinstance(first.arguments, list):
        first.arguments.append("--added-by-the-caller")
    if isinstance(first.environment, dict):
        first.environment["ADDED"] = "by the caller"
    second = server.process(serving)
    found = (list(second.arguments), dict(second.environment))
    expect(found == expected, f"first {expected}, then {found}")


@law(SERVER, needs=PROCESS)
def every_profile_has_a_process(subject: Subject) -> None:
    """Each profile describes a process, and slots that are given count more than those of the profile.

    Take `serving.slots` where it is a number, and the profile's otherwise.
    """
    for profile in get_args(Profile):
        few, many = (_process(subject, profile=profile, slots=slots) for slots in (3, 300))
        differ = (list(few.arguments), dict(few.environment)) != (list(many.arguments), dict(many.environment))
        expect(differ, f"{profile}: 3 slots and 300 are the same process")


@law(SERVER, needs=PROCESS)
def a_key_is_in_no_argument(subject: Subject) -> None:
    """A key is in a variable that `secrets` names, or is a problem that says so; it is in no argument.

    Arguments are read by everyone on the machine: pass keys by a variable, or refuse them.
    """
    server, serving = subject.build(), _serving(subject, keys=(KEY,))
    if server.problems(serving):
        raise NotApplicable("the server takes no keys")
    process = server.process(serving)
    expect(not any(KEY in word for word in process.arguments), "an argument has the key")
    holding = {name for name, value in process.environment.items() if KEY in value}
    expect(holding, "no variable has the key")
    expect(holding <= process.secrets, f"{', '.join(sorted(holding - process.secrets))} is not named as a secret")


@law(SERVER, needs=(general.settings_are_arguments_of_the_target,))
def what_cannot_be_served_is_a_problem(subject: Subject) -> None:
    """A path without a model, and a config.json without an architecture, are problems that say what to do.

    Return them from `problems`, before anything starts.
    """
    server, absent, empty = subject.build(), subject.folder / "absent", subject.folder / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    for path in (absent, empty):
        problems = _problems(server, Serving(path, port=PORT))
        expect(problems, f"{path.name}: there is no problem")
        expect(all(problem.fix for problem in problems), f"{path.name}: a problem has no fix: {problems[0]}")


@law(SERVER, needs=(general.settings_are_arguments_of_the_target,))
def what_the_machine_lacks_says_how_to_get_it(subject: Subject) -> None:
    """`missing()` is a list of problems, each with a fix.

    Write the command that installs the server in an environment of its own.
    """
    problems: list[Problem] = subject.build().missing()
    expect(isinstance(problems, list), f"missing returns a {type(problems).__name__}")
    expect(all(problem.fix for problem in problems), "a problem has no fix")


def _problems(server: Any, serving: Serving) -> list[Problem]:
    try:
        return server.problems(serving)
    except ProblemError as error:
        return list(error.problems)


def _model(subject: Subject, name: str = "model") -> Path:
    """A mixture with one layer: a folder, or for a server that reads single files one of them."""
    folder = subject.folder / name
    if not folder.exists():
        folder.mkdir()
        config = {
            "architectures": ["Glm4MoeForCausalLM"],
            "model_type": "glm4_moe",
            "tie_word_embeddings": False,
            "num_hidden_layers": 1,
            "first_k_dense_replace": 0,
            "max_position_embeddings": 512,
            "dtype": "float32",
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text("{}")
        _write_tensors(folder / "model.safetensors")
    serving = Serving(folder, port=PORT)
    if not _problems(subject.build(), serving):
        return folder
    single = folder / "model.gguf"
    single.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    return single


def _write_tensors(file: Path) -> None:
    """Tensors of one number each, in the layout of safetensors."""
    header = json.dumps(
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * at, 4 * at + 4]} for at, name in enumerate(TENSORS)}
    ).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * len(TENSORS)))


def _serving(subject: Subject, model: Path | None = None, **changes: Any) -> Serving:
    given: dict[str, Any] = {"port": PORT, **changes}
    return Serving(model or _model(subject), **given)


def _process(subject: Subject, **changes: Any) -> ServerProcess:
    return cast(ServerProcess, subject.build().process(_serving(subject, **changes)))


def _naming(subject: Subject, what: str, **changes: Any) -> bool:
    return any(what in argument for argument in _process(subject, **changes).arguments)


LAWS = laws_in(globals())
