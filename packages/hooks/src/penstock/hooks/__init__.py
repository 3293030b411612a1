"""The ground floor: what plugins say, what columns exchange, and how a config becomes components.

A plugin module needs two names:

>>> from penstock.hooks import Component, hookimpl
"""

from penstock.hooks.component import CONTRACT, KINDS, Component
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.hooks.registry import Choice, Entry, Registry
from penstock.hooks.spec import hookimpl

__all__ = [
    "CONTRACT",
    "KINDS",
    "Choice",
    "Component",
    "Entry",
    "ExitCode",
    "Problem",
    "ProblemError",
    "Registry",
    "hookimpl",
]
