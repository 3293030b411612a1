"""Laws of tasks: `Task`, which says what to ask a language model, and `TaskV1`, which asks it itself.

Most laws are of both contracts: what a task of contract 2 asks is put to the model by the kit.
"""

from __future__ import annotations

from penstock.conformance.laws import task_itself, task_questions, task_results, task_totals

CAPABILITIES = {
    "every-token": "every token is scored once, so a model that looks one token back has the same metrics for any "
    "sequence length",
}
LAWS = (*task_questions.LAWS, *task_results.LAWS, *task_itself.LAWS, *task_totals.LAWS)
