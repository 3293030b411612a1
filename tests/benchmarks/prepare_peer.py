"""The part of `prepare.py` that runs in an environment with datatrove: its processor seconds for texts.

python prepare_peer.py TEXTS.json ANSWER.json
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quality_peer import FILTERS, verdicts


def main(texts: str, answer: str) -> None:
    documents = json.loads(Path(texts).read_text())
    own = importlib.import_module("datatrove.utils.text")
    own.split_into_words("Loads the tokenizer.", "en")
    splitters = (own.split_into_words, own.split_into_sentences)
    result: dict[str, Any] = {name: verdicts(name, documents, splitters)["seconds"] for name in FILTERS}
    result |= {"signatures": signing(documents), "version": version("datatrove")}
    Path(answer).write_text(json.dumps(result))


def signing(texts: list[str]) -> float:
    """Processor seconds of shingles and signatures, without their files; the defaults are 14 bands of 8 values, of
    five words a shingle."""
    minhash = importlib.import_module("datatrove.pipeline.dedup.minhash")
    with tempfile.TemporaryDirectory() as folder:
        signer = minhash.MinhashDedupSignature(folder)
        signer.get_shingles("Loads the tokenizer of words before the time is taken.")
        begun = time.process_time()
        for text in texts:
            shingles = signer.get_shingles(text)
            if shingles.size:
                signer.get_signature(shingles)
        return time.process_time() - begun


if __name__ == "__main__":
    main(*sys.argv[1:])
