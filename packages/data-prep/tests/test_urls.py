"""URLs: one case a rule of the canonical form, and the first document of each is kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.urls import Urls, canonical
from penstock.hooks.contracts import Decision, Document
from penstock.hooks.problems import ProblemError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (" http://a.org/x#top\n", "http://a.org/x"),
        ("HTTPS://A.ORG/X", "http://a.org/X"),
        ("http://a.org./x", "http://a.org/x"),
        ("http://a.org:80/x", "http://a.org/x"),
        ("https://a.org:443/x", "http://a.org/x"),
        ("https://a.org:80/x", "http://a.org/x"),
        ("http://a.org:443/x", "http://a.org/x"),
        ("\ufeffhttp://a.org/x", "http://a.org/x"),
        ("http://B\u00fccher.de/x", "http://xn--bcher-kva.de/x"),
        ("http://xn--bcher-kva.de/x", "http://xn--bcher-kva.de/x"),
        ("http://\uff58\u3002org/x", "http://x.org/x"),
        ("http://a_b.org/x", "http://a_b.org/x"),
        ("http://a.org/\u00fc/a b?\u00fc=\u6c34", "http://a.org/%C3%BC/a%20b?%C3%BC=%E6%B0%B4"),
        ("http://a.org/\ud800", "http://a.org/%ED%A0%80"),
        ("http://a.org:8080", "http://a.org:8080"),
        ("http://a.org/%7euser/%C3%a9%2f", "http://a.org/~user/%C3%A9%2F"),
        ("http://a.org/b/../c/./d//", "http://a.org/c/d"),
        ("http://a.org/../../c", "http://a.org/c"),
        ("http://a.org/", "http://a.org"),
        ("http://a.org?", "http://a.org"),
        ("http://a.org/?utm_source=x&b=2&fbclid=3&a=1&&UTM_ID", "http://a.org?b=2&a=1"),
        ("http://user:pw@a.org/", "http://user:pw@a.org"),
        ("http://[2001:DB8::1]:80/x", "http://[2001:db8::1]/x"),
        ("ftp://a.org:21/x", "ftp://a.org/x"),
        ("a.org/x", None),
        ("/x", None),
        ("", None),
        ("http://", None),
        ("http://[::1/x", None),
        ("http://a.org:port/", None),
    ],
)
def test_canonical_form(url: str, expected: str | None) -> None:
    assert canonical(url) == expected


_PARTS = ["http://", "a.org", "/", "..", ".", "%2", "e", "%41", "?", "&", "=", "#", ":", "80", "443", "@", "%C3", "%bc"]
_PARTS += ["\u00fc", "\u3002", "\uff0f", "\u200b", "[", "]", "_", "xn--", " "]


@settings(deadline=None)
@given(
    st.sampled_from(["http://h", "https://h", "ftp://", "HTTPS://\u00fc", "http://"]),
    st.lists(st.sampled_from(_PARTS)),
)
def test_the_canonical_form_of_a_canonical_url_is_itself(begin: str, pieces: list[str]) -> None:
    form = canonical(begin + "".join(pieces))
    if form is not None:
        assert canonical(form) == form


def _decided(urls: list[str | None], shard: int, **settings: Any) -> list[tuple[int, Decision]]:
    stage = Urls(**settings)
    documents = [Document("text", str(place), url) for place, url in enumerate(urls)]
    sketches = [stage.sketch(documents[start : start + shard]) for start in range(0, len(documents), shard)]
    return list(stage.compare([stage.sketch([]), *sketches], documents.__getitem__))


_URLS = [
    "http://a.org/1",
    None,
    "https://a.org/1/",
    "http://b.org",
    "http://a.org/1#x",
    "no url",
    "http://b.org/?gclid=1",
]


@pytest.mark.parametrize("shard", [1, 3, 100])
def test_the_first_of_each_url_is_kept_and_named(shard: int) -> None:
    decided = _decided(_URLS, shard)
    assert [(place, each.rule, each.repeats) for place, each in decided] == [
        (2, "url/repeated", "0"),
        (4, "url/repeated", "0"),
        (6, "url/repeated", "3"),
    ]
    assert decided[0][1].detail == "the URL was seen before: http://a.org/1"


def test_documents_without_a_url_can_be_removed() -> None:
    removed = [(place, each.rule) for place, each in _decided(_URLS, 3, missing="remove") if each.repeats is None]
    assert removed == [(1, "url/missing"), (5, "url/missing")]


@pytest.mark.parametrize("url", [None, "", "no url"])
def test_documents_without_a_url_can_be_refused(url: str | None) -> None:
    with pytest.raises(ProblemError) as error:
        _decided(["http://a.org", url], 2, missing="refuse")
    assert error.value.problems[0].code == "missing-url"
    assert error.value.problems[0].where == "1"


def test_parameters_that_do_not_count_are_a_setting() -> None:
    urls: list[str | None] = ["http://a.org?session=1", "http://a.org?session=2", "http://a.org?utm_id=3"]
    assert [place for place, _ in _decided(urls, 3)] == []
    assert [place for place, _ in _decided(urls, 3, tracking=["session", "utm_*"])] == [1, 2]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(_URLS), max_size=20), st.integers(1, 5), st.sampled_from(["keep", "remove"]))
def test_what_is_left_is_left_again(urls: list[str | None], shard: int, missing: str) -> None:
    gone = {place for place, _ in _decided(urls, shard, missing=missing)}
    assert _decided([url for place, url in enumerate(urls) if place not in gone], shard, missing=missing) == []
