"""One attack: a program, and what its effect outside would be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attack:
    """`program` follows the names of the bait (`Outside.header`). With `fails`, its tests fail, so that a pass is an
    effect. `then` is a program that runs next and prints FOUND where it finds what the first has left. The effect of a
    `lasting` attack may come a second after its end. An executor without isolation survives a `gentle` one, so that it
    can be compared, within a sandbox."""

    name: str
    program: str
    fails: bool = False
    then: str = ""
    lasting: bool = False
    gentle: bool = False
