"""Servers that break one law each."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from broken.described import described
from penstock.hooks.contracts.serving import ServerProcess, Serving
from penstock.hooks.problems import Problem


class Good:
    """The files of a folder, as Python's own server has them; a key is asked for by a proxy that reads `KEY`."""

    def problems(self, serving: Serving) -> list[Problem]:
        config = serving.model / "config.json"
        if config.is_file() and "architectures" in config.read_text():
            return []
        return [Problem("not-servable", "no model is there", str(serving.model), "export one")]

    def process(self, serving: Serving) -> Any:
        where = ["--bind", serving.host, "--directory", str(serving.model), str(serving.port)]
        environment = {"SLOTS": str(serving.slots), **({"KEY": ",".join(serving.keys)} if serving.keys else {})}
        arguments = [sys.executable, "-m", "http.server", *where]
        return ServerProcess(arguments, environment, frozenset(environment) & {"KEY"}, "/", serving.model.name)

    def missing(self) -> list[Problem]:
        return []


class Line(Good):
    def process(self, serving: Serving) -> Any:
        process = super().process(serving)
        return replace(process, arguments=" ".join(process.arguments))


class Elsewhere(Good):
    def process(self, serving: Serving) -> Any:
        return replace(super().process(serving), arguments=["serve", serving.host, str(serving.port)])


class OnePort(Good):
    def process(self, serving: Serving) -> Any:
        return super().process(replace(serving, port=8000))


class Splitting(Good):
    def process(self, serving: Serving) -> Any:
        process = super().process(serving)
        return replace(process, arguments=" ".join(process.arguments).split())


class Remembering(Good):
    """Keeps the process that it has given away."""

    def __init__(self) -> None:
        self.known: dict[Serving, Any] = {}

    def process(self, serving: Serving) -> Any:
        return self.known.setdefault(serving, super().process(serving))


class Stubborn(Good):
    """Has slots of its own."""

    def process(self, serving: Serving) -> Any:
        return super().process(replace(serving, slots=8))


class Telling(Good):
    def process(self, serving: Serving) -> Any:
        process = super().process(serving)
        return replace(process, arguments=[*process.arguments, *serving.keys])


class Hopeful(Good):
    """Leaves it to the process to fail."""

    def problems(self, serving: Serving) -> list[Problem]:
        return []


class Curt(Good):
    def missing(self) -> list[Problem]:
        return [Problem("missing-engine", "it is not installed")]


of = described("server", "A server that breaks one law", contract=2)
GOOD = of(Good)
BROKEN = {
    "server/a-process-is-arguments-variables-and-a-path": of(Line),
    "server/the-command-names-the-model": of(Elsewhere),
    "server/the-command-names-where-it-listens": of(OnePort),
    "server/any-path-is-one-argument": of(Splitting),
    "server/a-process-is-the-caller-s": of(Remembering),
    "server/every-profile-has-a-process": of(Stubborn),
    "server/a-key-is-in-no-argument": of(Telling),
    "server/what-cannot-be-served-is-a-problem": of(Hopeful),
    "server/what-the-machine-lacks-says-how-to-get-it": of(Curt),
}
