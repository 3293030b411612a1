"""Verdicts of the rules of quality against datatrove's, and what they cost.

    python tests/benchmarks/quality.py --datatrove PYTHON [--megabytes 4] [--json]

PYTHON is that of an environment with datatrove 0.10.1 (`uv pip install "datatrove==0.10.1" "xxhash<4" spacy`). Texts
are those of `web_text` in PENSTOCK_DATA, cut at ends of lines into documents of drawn lengths; every fourth document is
spoilt in the ways that rules look for.

- handed ours, handed spaCy's: both programs get the same splitter. Verdicts, and the rules that they name, are equal.
- agreement: ours with its own splitter, datatrove with its default (spaCy). A splitter that differs moves a count, so a
  document at a threshold may fall on the other side.

C4 asks for sentences, so it gets our sentences or spaCy's. Where citations go, we look at the text again (see c4.py);
texts that this changes are counted.
"""

from __future__ import annotations

import json
import lzma
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from measure import Bar, finish, json_option

from penstock.data_prep.cleaning import words
from penstock.data_prep.cleaning.c4 import C4
from penstock.data_prep.cleaning.fineweb import FineWeb
from penstock.data_prep.cleaning.gopher import Gopher
from penstock.data_prep.cleaning.gopher_repetition import GopherRepetition
from penstock.hooks.contracts import Decision, Document, Judge

RULES: Mapping[str, Callable[..., Judge]] = {
    "gopher": Gopher,
    "gopher-repetition": GopherRepetition,
    "fineweb": FineWeb,
    "c4": C4,
}
AGREEMENT = 0.99
_NAMES = {
    "gopher_short_doc": "few-words",
    "gopher_long_doc": "many-words",
    "gopher_below_avg_threshold": "short-words",
    "gopher_above_avg_threshold": "long-words",
    "gopher_too_many_hashes": "hashes",
    "gopher_too_many_ellipsis": "ellipses",
    "gopher_too_many_bullets": "bullets",
    "gopher_too_many_end_ellipsis": "ellipsis-lines",
    "gopher_below_alpha_threshold": "letters",
    "gopher_enough_stop_words": "stop-words",
    "dup_para_frac": "paragraphs",
    "dup_para_char_frac": "paragraph-characters",
    "dup_line_frac": "lines",
    "dup_line_char_frac": "line-characters",
    "line_punct_ratio": "ended-lines",
    "short_line_ratio": "short-lines",
    "char_dup_ratio": "repeated-lines",
    "list_ratio": "new-lines",
    "lorem_ipsum": "lorem-ipsum",
    "curly_bracket": "curly-bracket",
    "too_few_sentences": "sentences",
    **{f"top_{n}_gram": f"top-{n}-gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"repeated-{n}-grams" for n in range(5, 11)},
}
"""What datatrove calls a rule, and we."""


@click.command()
@click.option("--datatrove", required=True, type=click.Path(exists=True, dir_okay=False), help="Python with datatrove.")
@click.option("--data", envvar="PENSTOCK_DATA", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--megabytes", default=4.0, show_default=True, help="Text to judge.")
@json_option
def main(datatrove: str, data: Path, megabytes: float, as_json: bool) -> None:
    texts = documents(data / "web_text", megabytes)
    peer = asked(datatrove, texts)
    size = sum(len(text.encode()) for text in texts) / 1e6
    rows, bars = [], []
    for name, build in RULES.items():
        ours, seconds = judged(build(), texts)
        handed, default = peer[name]["penstock"]["verdicts"], peer[name]["spacy"]["verdicts"]
        equal = share_equal(name, ours, handed)
        agreement = sum((a is None or a.text is not None) == b[0] for a, b in zip(ours, default, strict=True)) / len(
            texts
        )
        row: dict[str, Any] = {"rules": name, "documents": len(texts), "removed": removed(ours)}
        row |= {"rules fired": len({each.rule for each in ours if each}), "equal, handed ours": equal}
        bars.append(Bar(f"{name}: verdicts equal, our splitter handed to both", equal, 1))
        if name != "c4":
            listed = iter(peer["words"])
            rule: Any = build()
            rule.split = dict(zip(texts, listed, strict=True)).__getitem__
            by_spacy, _ = judged(rule, texts)
            equal = share_equal(name, by_spacy, default)
            row["equal, handed spaCy's"] = equal
            bars.append(Bar(f"{name}: verdicts equal, spaCy's words handed to both", equal, 1))
        else:
            pairs = zip(texts, ours, handed, strict=True)
            row["other text"] = sum((a.text if a and a.text else t) != b[2] for t, a, b in pairs if b[0])
        bars.append(Bar(f"{name}: agreement with datatrove's default", agreement, AGREEMENT))
        row |= {"agreement": agreement, "MB/s": size / seconds, "datatrove MB/s": size / peer[name]["spacy"]["seconds"]}
        rows.append(row | {"times faster": peer[name]["spacy"]["seconds"] / seconds})
    finish("quality", rows, bars, as_json, datatrove=peer["version"], megabytes=round(size, 1), seconds="processor")


def judged(judge: Judge, texts: Sequence[str]) -> tuple[list[Decision | None], float]:
    judge.judge(Document(texts[0], ""))  # builds tables
    begun = time.process_time()
    decisions = [judge.judge(Document(text, "")) for text in texts]
    return decisions, time.process_time() - begun


def share_equal(name: str, ours: Sequence[Decision | None], theirs: Sequence[Any]) -> float:
    """Share of documents of which both say the same, by the same rule."""
    said = ["" if each is None or each.text is not None else each.rule.removeprefix(f"{name}/") for each in ours]
    expected = ["" if kept else _NAMES.get(reason, reason) for kept, reason, _ in theirs]
    return sum(a == b for a, b in zip(said, expected, strict=True)) / len(said)


def removed(decisions: Sequence[Decision | None]) -> int:
    return sum(each is not None and each.text is None for each in decisions)


def asked(python: str, texts: Sequence[str]) -> dict[str, Any]:
    """What datatrove says of the texts, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "texts.json", Path(folder) / "answer.json"
        given.write_text(json.dumps(texts))
        script = Path(__file__).with_name("quality_peer.py")
        subprocess.run([python, str(script), str(given), str(words.__file__), str(answer)], check=True)
        return json.loads(answer.read_text())


def documents(folder: Path, megabytes: float) -> list[str]:
    """Different documents of 200 to 6,000 characters, a third of the bytes from each file."""
    draw = random.Random(0)
    listed: list[str] = []
    for file in sorted(folder.glob("*.txt.xz")):
        lines = lzma.decompress(file.read_bytes()).decode().splitlines(keepends=True)
        taken, wanted = 0, megabytes * 1e6 / 3
        while lines and taken < wanted:
            length, piece = draw.randint(200, 6000), ""
            while lines and len(piece) < length:
                piece += lines.pop(0)
            listed.append(spoilt(draw, piece) if len(listed) % 4 == 3 else piece)
            taken += len(piece.encode())
    return list(dict.fromkeys(listed))


def spoilt(draw: random.Random, text: str) -> str:
    """The text, changed in one of the ways that rules look for."""
    lines = text.splitlines()
    share = draw.random()
    some = [line if draw.random() < share else None for line in lines]
    pieces = text.split()
    phrase = " ".join(pieces[: draw.randint(2, 12)])
    return draw.choice(
        [
            "\n".join(line or "- " + each for line, each in zip(some, lines, strict=True)),
            "\n".join(line or each + " ..." for line, each in zip(some, lines, strict=True)),
            "\n".join(line or f"{each}\n\n{each}\n" for line, each in zip(some, lines, strict=True)),
            "\n".join(line or each.rstrip(".") for line, each in zip(some, lines, strict=True)),
            "\n".join(
                line or each + ".[12] Lorem ipsum" * (share < 0.1) for line, each in zip(some, lines, strict=True)
            ),
            " ".join(piece if draw.random() < share else "#" + piece for piece in pieces),
            " ".join(piece if draw.random() < share else f"{piece} {phrase}" for piece in pieces),
            " ".join(piece if draw.random() < share else "12.5" for piece in pieces),
            "\n".join(piece[: draw.randint(1, 3)] if draw.random() < share else piece for piece in pieces),
            " ".join(pieces[:60]),
            "".join(pieces),
            text.replace("{", "(").replace(";", "."),
        ]
    )


if __name__ == "__main__":
    main()
