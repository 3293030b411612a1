"""Chat templates of published models: Jinja, in `chat_template.jinja` or in `tokenizer_config.json`.

Templates come with models, so they run in a sandbox. What they may rely on is the environment of `transformers`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from penstock.data_prep.published import PublishedTokenizer
from penstock.hooks.contracts import Message
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError

OWN = "own"
FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template with the special tokens that it may name; a `ChatTemplate` of `penstock.hooks.contracts`. `where` is
    the place of the template in problems."""

    template: str
    special: Mapping[str, str]
    tokenizer: PublishedTokenizer
    where: str
    shots_as_turns: bool = True

    @property
    def sha256(self) -> str:
        """Of the template and the special tokens: together they decide what is written."""
        return hashlib.sha256(json.dumps([self.template, dict(self.special)], sort_keys=True).encode()).hexdigest()

    def write(self, messages: Sequence[Message]) -> str:
        return written(self.template, messages, self.special, self.where)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.prompt(text, spelled=True)


def chat_template(
    given: str, folder: Path | None, tokenizer_json: bytes, *, shots_as_turns: bool = True
) -> ChatTemplate:
    """The template of a file, or the model's `own`, which its `folder` holds; special tokens are those of the folder.
    A file is Jinja, or a `tokenizer_config.json`. Raises `ProblemError` for a file that is missing or damaged, for a
    model without a template, and for a template that is no Jinja."""
    config = {} if folder is None else tokenizer_config(folder)
    if given == OWN:
        template, where = None if folder is None else folder_template(folder, config), str(folder or "the model")
        if template is None:
            what, fix = "the model has no chat template", "name a file: --chat-template FILE"
            raise ProblemError(Problem("bad-template", what, where, fix))
        _require_jinja(template, where)
    else:
        template, where = file_template(Path(given)), given
    tokenizer = PublishedTokenizer.of_trained(tokenizer_json)
    return ChatTemplate(template, special_tokens(config), tokenizer, where, shots_as_turns)


def written(template: str, messages: Sequence[Message], special: Mapping[str, str], where: str) -> str:
    """A conversation as a template writes it, up to where the next reply begins. Raises `ProblemError` for a template
    that fails."""
    given: list[dict[str, str]] = [{"role": each.role, "content": each.content} for each in messages]
    nothing = {"tools": None, "documents": None}  # what transformers passes to a template that is given no tools
    try:
        made = _environment().from_string(template)
        return made.render(messages=given, add_generation_prompt=True, **nothing, **special)
    except (jinja2.TemplateError, TypeError, ValueError, RecursionError) as error:
        raise _fails(error, where) from error


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """The object in `tokenizer_config.json`; empty if there is no file."""
    file = folder / CONFIG
    return _object(file, _read(file)) if file.is_file() else {}


def folder_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The template of a folder: a file of its own, or in the tokenizer's config."""
    return _read(folder / FILE) if (folder / FILE).is_file() else _in_config(config)


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens of a tokenizer's config, such as `bos_token`, each a text or an object that holds it."""
    found = {name: value for name, value in config.items() if name.endswith("_token")}
    texts = {name: each.get("content") if isinstance(each, dict) else each for name, each in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _in_config(config: Mapping[str, Any]) -> str | None:
    """Several templates may have names; the one called default is meant."""
    found = config.get("chat_template")
    if isinstance(found, list):
        found = next((each.get("template") for each in found if each.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def file_template(file: Path) -> str:
    """The template in a file, which is Jinja or a `tokenizer_config.json`. Raises `ProblemError` for a file that is
    missing or damaged, and for a template that is no Jinja."""
    template = _in_file(file)
    _require_jinja(template, str(file))
    return template


def _in_file(file: Path) -> str:
    if not file.is_file():
        fix = f"name a Jinja file or a {CONFIG}, or write '{OWN}' for the model's own template"
        raise ProblemError(Problem("missing-file", "file not found", str(file), fix))
    text = _read(file)
    if file.suffix != ".json":
        return text
    template = _in_config(_object(file, text))
    if template is None:
        raise ProblemError(Problem("bad-template", "has no 'chat_template'", str(file), "name another file"))
    return template


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(f"cannot be read ({error})", file) from error


def _object(file: Path, text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise _damaged(f"not valid JSON ({error})", file) from error
    if not isinstance(value, dict):
        raise _damaged("not a JSON object", file)
    return value


def _damaged(what: str, file: Path) -> ProblemError:
    return ProblemError(Problem("damaged-file", what, str(file), "save or download it again"))


def _require_jinja(template: str, where: str) -> None:
    try:
        _environment().from_string(template)
    except jinja2.TemplateError as error:
        raise _fails(error, where) from error


def _fails(error: Exception, where: str) -> ProblemError:
    what = f"the chat template fails ({error})"
    return ProblemError(Problem("bad-template", what, where, "repair the template, or do without one"))


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = time.strftime
    return environment


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
