"""The foundation: how plugins describe components, the types that packages exchange, and how configs are read.

A plugin module needs two names:

>>> from penstock.hooks import Component, hookimpl
"""

from penstock.hooks.component import CONTRACTS, KINDS, Component, Window
from penstock.hooks.discovery import Selection
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.hooks.registry import Choice, Entry, Registry
from penstock.hooks.spec import hookimpl

__all__ = [
    "CONTRACTS",
    "KINDS",
    "Choice",
    "Component",
    "Entry",
    "ExitCode",
    "Problem",
    "ProblemError",
    "Registry",
    "Selection",
    "Window",
    "hookimpl",
]
