"""`penstock-lm-eval`: the harness's own command, which knows `--model penstock` too."""

from __future__ import annotations

import sys


def main() -> None:
    """Registers the model and hands over; a problem that the user can solve is told in one line."""
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model

    from penstock.hooks.problems import ProblemError
    from penstock_lm_eval.model import PenstockModel

    register_model("penstock")(PenstockModel)
    try:
        cli_evaluate()
    except ProblemError as error:
        sys.stderr.writelines(f"error: {problem}\n" for problem in error.problems)
        sys.exit(error.exit_code)
