"""Signatures are datasketch's, by numpy and by every kernel that this machine can run."""

from __future__ import annotations

import pickle
import random
import warnings
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import xxhash
from datasketch import MinHash

from penstock.data_prep.cleaning import native
from penstock.data_prep.cleaning.normalise import Normaliser
from penstock.data_prep.cleaning.shingles import Shingling, shingles
from penstock.data_prep.cleaning.signatures import NUMPY, Hash, Scheme, Signer, kernels
from penstock.hooks.problems import ProblemError

WORD, CHARACTER = Shingling("word", 5), Shingling("character", 3)
PIECE = 2**14  # of native/api.cpp: the kernel reads this many bytes at once

TEXTS = [
    "",
    " \n",
    "...",
    "one",
    " One two; three,\tfour \n",
    "The gate is open. Zwölf Turbinen laufen!",
    "The mill stands still; 水 is what it waits for 🙂\u2029two",
    "lower case by context: \u03a3\u038a\u03a3 \u0391\u03a3; of two characters: \u0130stanbul",
    "composed: J\u030c e\u0301 \u1112\u1161\u11ab \u0958 \U0002f800; a lone surrogate \ud800 and \x00 nothing",
    "not seen: \u2764\ufe0f a\u034fb\u2060c \u115f\u1160 葛\U000e0100城 " + "\u200b".join("abcdefg") + "\u3164h\uffa0i",
    "ends of blocks: " + " ".join(letter * length for length in (54, 55, 56, 63, 64, 119) for letter in "xy"),
]
LONG = [
    "word" * PIECE + " and more",
    " ".join(f"word{number * number % 97}" for number in range(PIECE // 4)),
    "e" * (PIECE - 1) + "é" + " " * PIECE + "水 " * (PIECE // 3) + "!",
]
FUZZED = 10_000


@cache
def fuzzed() -> list[str]:
    """Documents of words from few letters, so that shingles repeat, among every kind of character."""
    draw = random.Random(19)
    odd = (
        "Àß\u03a3\u03c3\u0130\u0131ẞǅ\u0301\u1161\u11a8水🙂\u200b\ud800\U00020000“”—… \t\n\r\x0b\x1c\x85\xa0\u2003"
        "\ufe0f\u034f\u1160\u3164\uffa0\U000e0100_.,;!?$+<>^`|~'\"-"
    )
    texts: list[str] = []
    for _ in range(FUZZED):
        letters = draw.choice(["ab", "aB. ", "abcdefgh XYZ,.", "aé “”ж " + odd, odd, "abcd ef é"])
        texts.append("".join(draw.choices(letters, k=draw.choice([3, 30, 100]))))
    return texts


def by_datasketch(signer: Signer, texts: list[str]) -> np.ndarray[Any, Any]:
    hashing = {"xxh32": xxhash.xxh32_intdigest, "sha1": None}[signer.hash]  # sha1 is its own
    settings = {"num_perm": signer.permutations, "seed": signer.seed, "scheme": signer.scheme, "hashfunc": hashing}
    rule = asdict(signer.shingle)
    sketches = MinHash.bulk((shingles(signer.normaliser(text), **rule) for text in texts), **settings)
    return np.array([sketch.hashvalues for sketch in sketches])


def require_datasketch(signer: Signer, texts: list[str], machines: tuple[str, ...] = kernels()) -> None:
    """Every machine gives datasketch's signatures, in its type."""
    expected = by_datasketch(signer, texts)
    for kernel in machines:
        signatures = replace(signer, kernel=kernel).sign(texts)
        assert signatures.dtype == expected.dtype
        np.testing.assert_array_equal(signatures, expected, kernel)


@pytest.mark.parametrize("shingle", [WORD, CHARACTER, Shingling("word", 1), Shingling("character", 80)])
@pytest.mark.parametrize("hash", get_args(Hash))
@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_signatures_are_those_of_datasketch(scheme: Scheme, hash: Hash, shingle: Shingling) -> None:
    require_datasketch(Signer(37, 5, scheme, hash, shingle), TEXTS)


@pytest.mark.parametrize("shingle", [WORD, CHARACTER, Shingling("word", 1), Shingling("character", 80)])
def test_long_texts_are_signed_whole(shingle: Shingling) -> None:
    require_datasketch(Signer(9, shingle=shingle), LONG)


@pytest.mark.parametrize("permutations", [1, 63, 64, 65, 300])
@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_any_number_of_permutations_is_whole(scheme: Scheme, permutations: int) -> None:
    require_datasketch(Signer(permutations, scheme=scheme), TEXTS[:6])


@pytest.mark.parametrize(
    ("shingle", "normaliser"),
    [
        (WORD, Normaliser()),
        (CHARACTER, Normaliser()),
        (Shingling("word", 2), Normaliser("none", "keep", "keep", "keep")),
        (CHARACTER, Normaliser("nfc", "keep", "space", "keep")),
    ],
    ids=str,
)
def test_10_000_fuzzed_documents_are_signed_alike(shingle: Shingling, normaliser: Normaliser) -> None:
    """By the fastest kernel: what the others have of their own does not depend on the text."""
    texts = fuzzed() if shingle == WORD else fuzzed()[: FUZZED // 5]
    require_datasketch(Signer(4, shingle=shingle, normaliser=normaliser), texts, kernels()[:1])


def test_a_text_without_words_has_the_signature_of_the_empty_set() -> None:
    for scheme in get_args(Scheme):
        signer = Signer(8, scheme=scheme)
        assert (signer.sign(["", " \n", "?!"]) == signer.empty).all()


def test_a_signature_depends_on_its_text_alone() -> None:
    signer = Signer(32)
    texts = TEXTS * 60  # more than the kernel is handed at once
    np.testing.assert_array_equal(signer.sign(texts), np.tile(signer.sign(TEXTS), (60, 1)))
    assert signer.sign([]).shape == (0, 32)


def test_equal_places_estimate_the_similarity() -> None:
    words = [f"w{number}" for number in range(1200)]
    one, other = " ".join(words), " ".join(words[:900])
    signer = Signer(512)
    (a, b), sets = signer.sign([one, other]), [set(signer.shingles(text)) for text in (one, other)]
    similarity = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert abs((a == b).mean() - similarity) < 4 * (similarity * (1 - similarity) / 512) ** 0.5


def test_a_description_tells_apart_whatever_changes_bits_and_nothing_else() -> None:
    changed = [
        Signer(),
        Signer(permutations=64),
        Signer(seed=2),
        Signer(scheme="affine64"),
        Signer(hash="sha1"),
        Signer(shingle=CHARACTER),
        Signer(normaliser=Normaliser(case="keep")),
    ]
    descriptions = [signer.describe() for signer in changed]
    assert all(one != other for number, one in enumerate(descriptions) for other in descriptions[:number])
    assert Signer(kernel=NUMPY).describe() == Signer().describe()


def test_a_signer_goes_to_another_process_after_use() -> None:
    signer = Signer(16)
    expected = signer.sign(TEXTS[:6])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(signer)).sign(TEXTS[:6]), expected)


def test_without_the_library_numpy_signs_and_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Signer(16).sign(TEXTS[:6])
    import penstock.data_prep

    native.kernels.cache_clear()
    native._library.cache_clear()
    monkeypatch.setattr(penstock.data_prep, "__path__", [str(tmp_path)])
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert kernels() == (NUMPY,)
            for _ in range(2):
                np.testing.assert_array_equal(Signer(16).sign(TEXTS[:6]), expected)
        assert ["numpy signs texts" in str(warning.message) for warning in said] == [True]
    finally:
        monkeypatch.undo()
        native.kernels.cache_clear()
        native._library.cache_clear()


@pytest.mark.parametrize(
    "settings", [{"scheme": "affine"}, {"hash": "md5"}, {"kernel": "sse9"}, {"permutations": 0}, {"seed": -1}], ids=str
)
def test_unknown_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ProblemError) as caught:
        Signer(**settings)
    assert caught.value.problems[0].code == "invalid-value"
