"""Settings of the tasks; the fields are the keyword arguments of their targets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.hooks.inputs import InputPath


class HeldoutConfig(Schema):
    """`heldout`: the run's own held-out tokens."""

    stride: int | None = Field(default=None, gt=0)
    """Tokens between the starts of windows; null means disjoint windows. A smaller stride gives more context, at
    sequence_length / stride times the cost."""
    max_tokens: int | None = Field(default=None, gt=1)
    """Score only this many tokens from the start; null means all. A limit becomes part of the metric's name."""


WIKITEXT2_SHA256 = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"
"""SHA-256 of `wiki.test.raw` in wikitext-2-raw-v1.zip, which the rows of Salesforce/wikitext give too."""


class WikiText2Config(Schema):
    """`wikitext2`: the raw test split of WikiText-2."""

    path: InputPath | None = None
    """A local `wiki.test.raw`, plain or compressed, a Parquet file of the hub, or a clone of Salesforce/wikitext; null
    means the data folder, or the hub if there is no folder."""
    convention: Literal["raw", "lm-eval", "concat", "gptq"] = "raw"
    """`raw`: the text as one stream. `lm-eval`: article by article, as in lm-evaluation-harness. `concat`: lines joined
    by blank ones, as in the documentation of transformers. `gptq`: whole windows of that, as in GPTQ."""
    window: int | None = Field(default=None, gt=1)
    """Tokens of a window; null means as many as the model reads at once."""
    stride: int | None = Field(default=None, gt=0)
    """Tokens between the starts of windows, in the conventions `raw` and `concat`; null means disjoint windows."""
    max_bytes: int | None = Field(default=None, gt=1)
    """Score only this many bytes from the start, cut at a line; null means all 1,290,590. A limit becomes part of the
    metric's name."""
    sha256: str | None = Field(default=WIKITEXT2_SHA256, pattern="^[0-9a-f]{64}$")
    """SHA-256 of the whole text, before any cut; null allows any text. The figures of another text than WikiText-2's
    have the beginning of its hash in their names."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        lines = (f" The mill ground {number} sacks of corn in the year {1800 + number} . \n" for number in range(40))
        text = "".join(lines)
        (folder / "wiki.test.raw").write_text(text, encoding="utf-8")
        return {"path": str(folder / "wiki.test.raw"), "sha256": hashlib.sha256(text.encode()).hexdigest()}


class WikiText103Config(WikiText2Config):
    """`wikitext103`: the raw test split of WikiText-103, which is the text of WikiText-2's."""

    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of the whole text, before any cut; null allows any text. The figures of another text than WikiText-2's
    have the beginning of its hash in their names."""


class C4Config(Schema):
    """`c4`: the first file of the validation split of C4 in English."""

    path: InputPath | None = None
    """A local `c4-validation.00000-of-00008.json.gz`, or a clone of allenai/c4; null means `c4` in the data folder, or
    the Hugging Face hub if there is no data folder."""
    convention: Literal["documents", "gptq"] = "documents"
    """`documents`: each by itself, as in the task `text`. `gptq`: the first 1,100 joined by spaces, in 256 windows."""
    window: int | None = Field(default=None, gt=1)
    """Tokens of a window; null means as many as the model reads at once."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        text = "".join(f'{{"text": "On day {day}, mill {day * 7 % 12} stood still."}}\n' for day in range(12))
        (folder / "c4-validation.00000-of-00008.json").write_text(text)
        return {"path": str(folder / "c4-validation.00000-of-00008.json")}


class TextConfig(Schema):
    """`text`: any text."""

    paths: tuple[InputPath, ...] = Field(min_length=1)
    """Files, plain or compressed, and folders, whose files are all read. Each file is a document, or each line of a
    .jsonl file."""
    column: str = "text"
    """The key of the text in each line of a .jsonl file."""
    separator: str | None = Field(default=None, min_length=1)
    """Splits a file into documents, for example `<|endoftext|>`; newlines around it are dropped."""
    stride: int | None = Field(default=None, gt=0)
    """Tokens between the starts of windows; null means disjoint windows."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        text = "".join(f"Day {day}: the gate is {'open' if day % 3 else 'shut'}.\n\n" for day in range(12))
        (folder / "days.txt").write_text(text, encoding="utf-8")
        return {"paths": [str(folder / "days.txt")], "separator": "\n\n"}


class LambadaConfig(Schema):
    """`lambada`: OpenAI's variant of the test set."""

    path: InputPath | None = None
    """A local `lambada_test.jsonl` with a passage in the column `text` of each line, plain or compressed, a Parquet
    file, or a clone of EleutherAI/lambada_openai; null means the data folder, or the Hugging Face hub if there is no
    data folder."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        passages = (f"Mill {number} ground corn all day long, and in the evening {word}" for number, word in _ENDS)
        (folder / "lambada_test.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in passages))
        return {"path": str(folder / "lambada_test.jsonl")}


_ENDS = tuple(enumerate(("it stopped", "it rested", "we slept", "they ate", "the gate closed", "all was quiet")))


class MmluConfig(Schema):
    """`mmlu`: the test questions of MMLU, with examples of the dev split."""

    path: InputPath | None = None
    """A folder with `mmlu_test.jsonl` and `mmlu_dev.jsonl` (plain or compressed; columns subject, question, choices,
    answer), the unpacked archive with its folders `dev` and `test`, or a clone of cais/mmlu; null means `mmlu` in the
    data folder, or the Hugging Face hub if there is no data folder."""
    answers: Literal["letters", "texts"] = "letters"
    """What the model is asked for: the letter of a choice, as in the paper, or its text, with which small models do
    better than chance earlier."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        for split, numbers in (("dev", range(5)), ("test", range(5, 9))):
            rows = (
                f'{{"subject": "{subject}", "question": "Which of the {number} gates is shut?", '
                f'"choices": ["all", "none", "the first", "the last"], "answer": {number % 4}}}\n'
                for subject in ("mills", "dams")
                for number in numbers
            )
            (folder / f"mmlu_{split}.jsonl").write_text("".join(rows))
        return {"path": str(folder), "answers": "texts"}


class ChoicesConfig(Schema):
    """`choices`: multiple-choice questions of any file, in the columns of MMLU unless set otherwise. ARC has
    `answer: answerKey`; HellaSwag `question: ctx`, `choices: endings`, `answer: label` and `prompt: "{question}"`."""

    path: InputPath
    """JSON lines or CSV with a header, plain or compressed, a Parquet file, or a clone of a repository of the hub."""
    split: str = "test"
    """The split of a clone; of a file, all rows are read."""
    name: str | None = None
    """The name of the data set in a clone that has several, for example `ARC-Easy`."""
    question: str = "question"
    """The column of the question."""
    choices: str | tuple[str, ...] = "choices"
    """The column with the list of choices (or with `text` and `label`, two lists, as in ARC); or a list of columns, one
    for each choice."""
    answer: str = "answer"
    """The column of the right choice: its label if choices have labels, otherwise its number from 0 or its letter."""
    group: str | None = None
    """The column that says which questions are alike, such as their subject: intervals draw these together."""
    answers: Literal["letters", "texts"] = "texts"
    """What the model is asked for: the letter of a choice, or its text."""
    prompt: str | None = Field(default=None, pattern=r"\{question\}")
    """What stands before the answer and the space before it. {question} is the question; {choices} gives each choice a
    line with its letter. null means "Question: {question}\\nAnswer:" for texts, and
    "{question}\\n{choices}\\nAnswer:" for letters."""
    shots: int = Field(default=0, ge=0)
    """Examples before each question, unless --shots says otherwise: the first ones of `examples`."""
    examples: InputPath | None = None
    """Where examples come from, in the same columns: a file, or a clone, of which the split `train` is read."""

    def misfits(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if not isinstance(self.choices, str) and len(self.choices) < 2:
            yield ("choices",), "is one column: name two or more, or write the column of a list without brackets"

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        rows = (
            f'{{"question": "What feeds mill {number}?", "choices": ["a flume", "a sail", "an ox"], "answer": "A"}}\n'
            for number in range(6)
        )
        (folder / "mills.jsonl").write_text("".join(rows))
        return {"path": str(folder / "mills.jsonl")}


class Gsm8kConfig(Schema):
    """`gsm8k`: word problems of grade school."""

    path: InputPath | None = None
    """A folder with `test.jsonl` and `train.jsonl` (plain or compressed; columns question and answer), or a clone of
    openai/gsm8k; null means `gsm8k` in the data folder, or the Hugging Face hub if there is no data folder."""
    tokens: int = Field(default=256, gt=0)
    """The most tokens of an answer; 256 as in lm-evaluation-harness. Another number is part of the metrics' names."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        for split, numbers in (("train", range(1, 6)), ("test", range(6, 12))):
            rows = (f'{{"question": "{n}+1?", "answer": "#### {n + 1}"}}\n' for n in numbers)
            (folder / f"{split}.jsonl").write_text("".join(rows))
        return {"path": str(folder), "tokens": 8}


class HumanEvalConfig(Schema):
    """`humaneval`: functions to be written from their docstring, and tested."""

    path: InputPath | None = None
    """A local `HumanEval.jsonl`, plain or compressed, a Parquet file, or a clone of openai/openai_humaneval; or other
    problems with the columns prompt, test and entry_point. null means `humaneval` in the data folder, or the Hugging
    Face hub if there is no data folder."""
    samples: int = Field(default=1, gt=0)
    """Answers to each problem."""
    k: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(1,), min_length=1)
    """The k of each pass@k: the share of problems that one of k answers solves. 1, 10 and 100 in the paper, of 200
    samples."""
    tokens: int = Field(default=512, gt=0)
    """The most tokens of an answer."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest token each time, which gives one answer. The paper has 0.2 for pass@1, 0.8 for pass@100."""
    seconds: float = Field(default=3.0, gt=0)
    """What a program may take, on a machine with a free core; 3 as in the paper's executor."""

    def misfits(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.temperature == 0 and self.samples > 1:
            yield ("samples",), f"must be 1 at temperature 0, not {self.samples}: all answers would be the same"
        if max(self.k) > self.samples:
            yield ("k",), f"has {max(self.k)}, and `samples` of each problem is {self.samples}"

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        rows = (
            f'{{"task_id": "{n}", "prompt": "f = {n}\\n", "test": "def check(f): assert f", "entry_point": "f"}}\n'
            for n in range(4)
        )
        (folder / "problems.jsonl").write_text("".join(rows))
        return {"path": str(folder / "problems.jsonl"), "tokens": 8}


class QualityConfig(Schema):
    """`quality`: what a model writes after prompts."""

    prompts: tuple[str, ...] = ()
    """Prompts; none means those of `path`, or of the run's config (`evaluate.prompts`)."""
    path: InputPath | None = None
    """A file of prompts: JSON lines or CSV with a header, plain or compressed, or Parquet."""
    column: str = "prompt"
    """The column of the prompt in `path`."""
    samples: int = Field(default=4, gt=0)
    """Texts for each prompt."""
    tokens: int = Field(default=128, gt=0)
    """The most tokens of a text."""
    temperature: float = Field(default=0.8, ge=0)
    """0 takes the likeliest token each time, which gives one text: set `samples: 1`."""
    self_bleu: bool = True
    """Whether to compare the texts of a prompt by BLEU, which needs the package sacrebleu (the extra `bleu`)."""

    def misfits(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.temperature == 0 and self.samples > 1:
            yield ("samples",), f"must be 1 at temperature 0, not {self.samples}: all texts would be the same"
        if self.prompts and self.path is not None:
            yield ("path",), "is not read beside `prompts`: leave one of them out"

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        prompts = [f"Mill {number}" for number in range(4)]
        return {"prompts": prompts, "samples": 2, "tokens": 8, "self_bleu": False}
