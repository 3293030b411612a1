"""Components of penstock-lm-eval; imports nothing of the harness."""

from penstock.hooks import Component, hookimpl


@hookimpl
def tasks() -> list[Component]:
    return [
        Component(
            kind="task",
            name="lm-eval",
            target="penstock_lm_eval.task:LmEval",
            config="penstock_lm_eval.config:LmEvalConfig",
            summary="A task or group of lm-evaluation-harness, with its prompts, scores and metrics.",
            capabilities=frozenset({"every-token"}),
            contract=2,
            reference="https://github.com/EleutherAI/lm-evaluation-harness",
        ),
    ]
