"""Components named on a command line."""

from __future__ import annotations

import pytest

from penstock.cli.choices import choose
from penstock.hooks import Registry
from penstock.hooks.problems import ProblemError


def test_yaml_that_cannot_be_read_is_said_of_the_option_that_has_it() -> None:
    with pytest.raises(ProblemError, match=r"--task:1:\d+: not valid YAML"):
        choose(Registry.discover(), "task", "{use: text, paths: [README.md")
