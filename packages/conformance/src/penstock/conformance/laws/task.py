"""Laws of tasks: `Task`, which says what to ask a language model, and `TaskV1`, which asks it itself.

Most laws are of both contracts: what a task of contract 2 asks is put to the model by the kit.
"""

from __future__ import annotations

from penstock.conformance.laws import task_itself, task_questions, task_results, task_totals

LAWS = (*task_questions.LAWS, *task_results.LAWS, *task_itself.LAWS, *task_totals.LAWS)
