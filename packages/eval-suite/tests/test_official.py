"""Each metric equals its official script, which a test runs beside it, or figures that were computed by hand."""

import json
import lzma
import os
import random
import string
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.eval_suite.official import classification, entities, squad
from penstock.eval_suite.official.pass_at_k import pass_at_k

CASES = 1000
WORDS = [
    "the",
    "The",
    "a",
    "an",
    "gate",
    "Gate,",
    "mill's",
    "\u00fcber",
    "\u00dcBER",
    "\u6c34",
    "...",
    "\u2019",
    "7",
    "",
]


@pytest.fixture
def in_double() -> Iterator[None]:
    """What the oracle computes in torch has enough digits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def a_text(draw: random.Random) -> str:
    """Often empty, often only articles and punctuation, with all kinds of space and letters."""
    words = [draw.choice([*WORDS, "".join(draw.choices(string.printable, k=3))]) for _ in range(draw.randrange(5))]
    return draw.choice([" ", "  ", "\t", "\u00a0"]).join(words)


# --- SQuAD


@pytest.mark.usefixtures("in_double")
def test_answers_score_as_the_script_of_squad_2_scores_them() -> None:
    """The oracle keeps gold answers that are nothing but articles; the script drops them before it scores."""
    metrics: Any = pytest.importorskip("torchmetrics.functional.text", reason="torchmetrics is not installed")
    draw = random.Random(0)
    for _ in range(CASES):
        said, gold = a_text(draw), [a_text(draw) for _ in range(draw.randrange(4))]
        kept = [each for each in gold if squad.normal(each)] or [""]
        answers = {"text": kept, "answer_start": [0] * len(kept)}
        oracle = metrics.squad([{"prediction_text": said, "id": "q"}], [{"answers": answers, "id": "q"}])
        ours = squad.answer_scores([(said, gold)])
        assert ours.exact_match == pytest.approx(float(oracle["exact_match"]), abs=1e-12)
        assert ours.f1 == pytest.approx(float(oracle["f1"]), abs=1e-12)


def test_the_rules_differ_where_nothing_is_left_of_a_text() -> None:
    by_rules = {rules: squad.answer_scores([("the", ["a"])], rules) for rules in ("1.1", "2.0")}
    assert by_rules == {"1.1": squad.AnswerScores(100, 0), "2.0": squad.AnswerScores(100, 100)}
    assert squad.answer_scores([("", ["the", "gate"])], "1.1") == squad.AnswerScores(100, 0)
    assert squad.answer_scores([("", ["the", "gate"])], "2.0") == squad.AnswerScores(0, 0)
    assert squad.answer_scores([("", []), ("gate", [])], "2.0") == squad.AnswerScores(50, 50)


def test_no_questions_have_no_score() -> None:
    with pytest.raises(ValueError, match="the list of questions is empty"):
        squad.answer_scores([])


@pytest.mark.parametrize(
    ("rules", "predictions", "expected"),
    [
        ("1.1", "pred_v1.1_logistic_regression", (40.14, 50.98)),
        ("1.1", "pred_v1.1_bert_ensemble", (86.21, 92.20)),
        ("2.0", "pred_v2.0_bert_single", (78.74, 81.78)),
    ],
)
def test_public_predictions_have_their_official_scores(
    rules: squad.Rules, predictions: str, expected: tuple[float, float]
) -> None:
    """What the official scripts print for these files. A scorer of 2.0 that keeps the gold answer "." of two questions
    gives 78.76 and 81.79; the script drops it."""
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no SQuAD here")
    folder = Path(os.environ["PENSTOCK_DATA"]) / "squad"
    with lzma.open(folder / "predictions" / f"{predictions}.json.xz") as stream:
        said = json.load(stream)
    with lzma.open(folder / f"dev-v{rules}.json.xz") as stream:
        document = json.load(stream)
    asked = [each for entry in document["data"] for paragraph in entry["paragraphs"] for each in paragraph["qas"]]
    gold = {each["id"]: [answer["text"] for answer in each["answers"]] for each in asked}
    scores = squad.answer_scores(((said.get(key, ""), texts) for key, texts in gold.items()), rules)
    assert (round(scores.exact_match, 2), round(scores.f1, 2)) == expected


# --- entities

PREFIXES: dict[Any, str] = {None: "BIES", "IOB2": "BI", "IOE2": "IE", "IOBES": "BIES", "BILOU": "BILU"}


def some_tags(draw: random.Random, prefixes: str, length: int) -> list[str]:
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in ("A", "B"))]
    return draw.choices(tags, k=length)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("strict", PREFIXES)
def test_entities_score_as_seqeval_scores_them(strict: entities.Scheme | None) -> None:
    metrics: Any = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    schemes: Any = pytest.importorskip("seqeval.scheme")
    how = {} if strict is None else {"mode": "strict", "scheme": getattr(schemes, strict)}
    draw = random.Random(1)
    for _ in range(CASES):
        lengths = [draw.randrange(1, 8) for _ in range(draw.randrange(1, 5))]
        gold, said = ([some_tags(draw, PREFIXES[strict], length) for length in lengths] for _ in range(2))
        ours = entities.entity_scores(gold, said, strict)
        oracle = [getattr(metrics, f"{name}_score")(gold, said, **how) for name in ("precision", "recall", "f1")]
        assert [ours.precision, ours.recall, ours.f1] == pytest.approx(oracle, abs=1e-12)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("I-A I-A B-A I-B O I-A", [("A", 0, 1), ("A", 2, 2), ("B", 3, 3), ("A", 5, 5)]),
        ("B-A I-B I-B", [("A", 0, 0), ("B", 1, 2)]),
        ("S-A B-A E-A I-A", [("A", 0, 0), ("A", 1, 2), ("A", 3, 3)]),
        ("O O", []),
    ],
)
def test_entities_are_read_as_conlleval_reads_them(tags: str, found: list[Any]) -> None:
    assert entities.entities(tags.split()) == found


TAG = st.sampled_from(["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("A", "B"))])


@given(st.lists(TAG, min_size=1, max_size=9))
def test_iob2_has_the_same_entities(tags: list[str]) -> None:
    iob2 = entities.as_iob2(tags)
    assert entities.entities(iob2) == entities.strict_entities(iob2, "IOB2") == entities.entities(tags)


def test_a_tag_of_another_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="'S-A' is not a tag of IOB2"):
        entities.strict_entities(["B-A", "S-A"], "IOB2")


# --- labels


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_labels_score_as_scikit_learn_scores_them() -> None:
    metrics: Any = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    draw = random.Random(2)
    for _ in range(CASES):
        labels = ["no", "yes", "\u6c34", ""][: draw.randrange(1, 5)]
        gold, said = zip(*[draw.choices(labels, k=2) for _ in range(draw.randrange(1, 30))], strict=True)
        *_, f1_L, _ = metrics.precision_recall_fscore_support(gold, said, zero_division=0)
        oracle = [
            metrics.accuracy_score(gold, said),
            *f1_L,
            f1_L.mean(),  # what average="macro" gives
            metrics.matthews_corrcoef(gold, said),
        ]
        ours = [
            classification.accuracy(gold, said),
            *(classification.f1(gold, said, label) for label in sorted({*gold, *said})),
            classification.macro_f1(gold, said),
            classification.matthews_correlation(gold, said),
        ]
        assert ours == pytest.approx(oracle, abs=1e-12)


def test_a_label_that_nobody_says_and_nothing_has_scores_0() -> None:
    assert classification.f1(["no"], ["no"], "yes") == 0


@pytest.mark.parametrize(("gold", "said"), [([], []), ([1], [1, 0])])
def test_labels_need_a_partner_each(gold: list[int], said: list[int]) -> None:
    with pytest.raises(ValueError, match="the same number is needed"):
        classification.accuracy(gold, said)


# --- attempts


def test_pass_at_k_is_the_share_of_drawings_with_a_solution() -> None:
    for attempts in range(1, 8):
        for solved in range(attempts + 1):
            for k in range(1, attempts + 1):
                drawings = list(combinations(range(attempts), k))
                share = Fraction(sum(min(drawn) < solved for drawn in drawings), len(drawings))
                assert pass_at_k(attempts, solved, k) == pytest.approx(float(share), abs=1e-15)


@pytest.mark.parametrize("wrong", [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_more_solutions_or_drawings_than_attempts_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="attempts solved"):
        pass_at_k(*wrong)
