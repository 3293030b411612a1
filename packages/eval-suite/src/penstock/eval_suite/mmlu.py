"""MMLU: multiple-choice questions of 57 subjects, with five examples of the subject before each.

Prompts are those of `mmlu` in lm-evaluation-harness (whose own default is no example: `--shots 0`), or of its
`mmlu_continuation`, which asks for the text of a choice and suits small models.

Questions come subject by subject in turn: first each subject's first, then each subject's second. So a limit of 570
takes ten of each subject, which is `--limit 10` of lm-evaluation-harness.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from penstock.eval_suite.choices import (
    FORMS,
    Answers,
    Columns,
    Gold,
    Prompt,
    Question,
    metrics_of,
    prompt_of,
    requests_of,
    require_writable,
    scores_of,
    shots_of,
)
from penstock.eval_suite.sources import (
    DataSet,
    Row,
    csv_lines,
    file_of_split,
    local_rows,
    other_size,
    require_folder,
    some_rows,
)
from penstock.hooks.contracts import Answer, Array, Item, Likelihood, TaskContext, TaskResult
from penstock.hooks.inputs import expanded
from penstock.hooks.problems import Problem, ProblemError

REPOSITORY = "cais/mmlu"
SHOTS = 5
QUESTIONS = 14_042
"""Questions in the published test split."""
_COLUMNS = Columns(group="subject")
_ABOUT = {
    "letters": "The following are multiple choice questions (with answers) about {subject}.\n\n",
    "texts": "The following are questions (with answers) about {subject}.\n\n",
}


class Mmlu:
    """Accuracy on the test questions, and the probability of the right choice."""

    def __init__(self, path: str | Path | None = None, answers: Answers = "letters") -> None:
        self._path = None if path is None else expanded(path)
        self._form = FORMS[answers]

    def items(self, context: TaskContext) -> Iterator[Item]:
        """Raises `ProblemError` for missing files, for what is wrong with a row, for a subject without examples, and
        for more examples than there are."""
        questions = _in_turn(self._questions("test", context))
        examples = by_subject(self._questions("dev", context) if _wants_examples(context) else [])

        def prompts(shots: int) -> list[Prompt]:
            return [
                prompt_of(self._form, each, examples.get(each.group, ())[:shots], context, self._about(each.group))
                for each in questions
            ]

        counted = {question.group: len(examples.get(question.group, ())) for question in questions}
        fewest = min(counted, key=counted.__getitem__)
        where = f"subject '{fewest}' of the dev split of {self._where(context)}"
        shots = shots_of(context, SHOTS, counted[fewest], where, prompts)
        numbers: dict[str, int] = {}
        for prompt, question in zip(prompts(shots), questions, strict=True):
            number = numbers[question.group] = numbers.get(question.group, 0) + 1
            gold = Gold(question.right, len(questions), question.choices[question.right])
            yield Item(f"{question.group}/{number}", prompt, gold, question.group)

    def requests(self, item: Item, context: TaskContext) -> Sequence[Likelihood]:
        return requests_of(item.document, context, f"question {item.id}")

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        right, questions, _ = item.gold
        return [scores_of(item.document, right, answers) | {"questions": float(questions)}]

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        texts = self._form.answers == "texts"
        other = other_size(int(scores["questions"][0]), QUESTIONS, "questions")
        return metrics_of(
            "mmlu", "-".join(filter(None, ["texts" if texts else "", other])), scores, context, texts=texts
        )

    def _about(self, subject: str) -> str:
        return _ABOUT[self._form.answers].replace("{subject}", subject.replace("_", " "))

    def _questions(self, split: str, context: TaskContext) -> list[Question]:
        found = [(where, _COLUMNS.question_of(where, row)) for where, row in self._rows(split, context)]
        return [
            require_writable(Question(each.text.strip(), each.choices, each.right, each.group), self._form, where)
            for where, each in found
        ]

    def _rows(self, split: str, context: TaskContext) -> Iterator[Row]:
        """From the folder of `path` or of the context's data: JSON lines of all subjects, the published archive's CSV
        files, or a clone of the hub's repository; or from the hub itself."""
        folder = self._folder(context)
        if folder is None:
            return _on_hub(split).rows(None, context)
        require_folder(folder, "give the folder of mmlu_test.jsonl, the unpacked archive, or a clone of cais/mmlu")
        lines = file_of_split(folder, "mmlu_{split}.jsonl", split, ("dev", "test"))
        if lines is not None:
            return some_rows(local_rows(lines), str(lines))
        if (folder / split).is_dir():
            return some_rows(_archive_rows(folder / split, split), str(folder / split))
        return _on_hub(split).rows(folder, context)

    def _folder(self, context: TaskContext) -> Path | None:
        if self._path is not None or context.data is None:
            return self._path
        return context.data / "mmlu"

    def _where(self, context: TaskContext) -> str:
        folder = self._folder(context)
        return REPOSITORY if folder is None else str(folder)


def _on_hub(split: str) -> DataSet:
    return DataSet(REPOSITORY, "all", split, f"mmlu/mmlu_{split}.jsonl")


def by_subject(questions: Sequence[Question]) -> dict[str, list[Question]]:
    grouped: dict[str, list[Question]] = {}
    for question in questions:
        grouped.setdefault(question.group, []).append(question)
    return grouped


def _in_turn(questions: Sequence[Question]) -> list[Question]:
    rounds = zip_longest(*by_subject(questions).values())
    return [question for each in rounds for question in each if question is not None]


def _wants_examples(context: TaskContext) -> bool:
    return context.shots is None or context.shots > 0


def _archive_rows(folder: Path, split: str) -> Iterator[Row]:
    """Rows of the published archive: a file for each subject, a line for each question, with its text, its four
    choices and a letter."""
    for file in sorted(folder.glob(f"*_{split}.csv")):
        for where, cells in csv_lines(file):
            if len(cells) != 6:
                what = f"{len(cells)} cells, not a question, four choices and a letter"
                raise ProblemError(Problem("invalid-field", what, where, "quote cells that contain a comma"))
            question, *choices, answer = cells
            subject = file.name.removesuffix(f"_{split}.csv")
            yield where, {"subject": subject, "question": question, "choices": choices, "answer": answer}
