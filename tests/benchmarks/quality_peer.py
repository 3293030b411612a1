"""The part of `quality.py` that runs in an environment with datatrove: its verdicts about texts.

    python quality_peer.py TEXTS.json WORDS.py ANSWER.json

Runs each filter with datatrove's own splitter (spaCy), and with that of WORDS.py in its place.
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

FILTERS = {
    "gopher": ("gopher_quality_filter", "GopherQualityFilter", "split_into_words"),
    "gopher-repetition": ("gopher_repetition_filter", "GopherRepetitionFilter", "split_into_words"),
    "fineweb": ("fineweb_quality_filter", "FineWebQualityFilter", "split_into_words"),
    "c4": ("c4_filters", "C4QualityFilter", "split_into_sentences"),
}


def main(texts: str, words: str, answer: str) -> None:
    documents = json.loads(Path(texts).read_text())
    ours = runpy.run_path(words)
    own = importlib.import_module("datatrove.utils.text")
    splitters = {
        "spacy": (own.split_into_words, own.split_into_sentences),
        "penstock": (lambda text, _: ours["split_words"](text), lambda text, _: ours["split_sentences"](text)),
    }
    own.split_into_words("Loads the tokenizer.", "en")
    result: dict[str, Any] = {
        name: {each: verdicts(name, documents, pair) for each, pair in splitters.items()} for name in FILTERS
    }
    result["words"] = [list(own.split_into_words(text, "en")) for text in documents]
    result["version"] = version("datatrove")
    Path(answer).write_text(json.dumps(result))


def verdicts(name: str, texts: list[str], splitters: tuple) -> dict:
    """Whether each text is kept, why not, what becomes of it, and the processor seconds of all."""
    document_type = importlib.import_module("datatrove.data").Document
    file, kind, splits = FILTERS[name]
    module = importlib.import_module(f"datatrove.pipeline.filters.{file}")
    setattr(module, splits, splitters[splits == "split_into_sentences"])
    rules = getattr(module, kind)()
    listed = []
    begun = time.process_time()
    for text in texts:
        document = document_type(text, "")
        verdict = rules.filter(document)
        kept, reason = verdict if isinstance(verdict, tuple) else (verdict, "")
        listed.append((kept, reason, document.text))
    seconds = time.process_time() - begun
    return {"verdicts": listed, "seconds": seconds}


if __name__ == "__main__":
    main(*sys.argv[1:])
