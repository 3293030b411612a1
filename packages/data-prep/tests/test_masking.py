"""Masking: what is found, what only looks like it, and that what is masked is clean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.masking import Masking
from penstock.hooks.contracts import Document
from penstock.hooks.problems import ProblemError


def _masked(text: str) -> str:
    decision = Masking().judge(Document(text, "here"))
    return text if decision is None else decision.text or ""


@pytest.mark.parametrize(
    "address",
    [
        "a@example.org",
        "first.last+tag@mail.example.co.uk",
        "o_o-1@ex-ample.museum",
        "A.B@EXAMPLE.COM",
        "müller@example.de",
        "o'brien@example.ie",
        "john@bücher.de",
        "иван@пример.com",
    ],
)
def test_email_addresses_are_masked(address: str) -> None:
    for text, masked in (("mail {}.", "mail <EMAIL>."), ("<{}>", "<<EMAIL>>"), ("mailto:{}?x", "mailto:<EMAIL>?x")):
        assert _masked(text.format(address)) == masked.format(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "203.0.114.255",
        "2606:4700:4700::1111",
        "2a00:1450:4001:0831:0000:0000:0000:200e",
        "2001:4860:4860::",
        "2001:4860::8.8.8.8",
        "::ffff:8.8.8.8",
        "1.1.1.1-1.1.1.5",
    ],
)
def test_public_addresses_are_masked(address: str) -> None:
    for text in ("from {} at", "{}", "({})", "ip={};", "{}, {}", "is {}."):
        assert _masked(text.replace("{}", address)) == text.replace("{}", "<IP>")


@pytest.mark.parametrize(
    "text",
    ["http://8.8.8.8/x", "http://8.8.8.8:80/", "http://[2606:4700::1111]:443/", "8.8.8.8/24", "//8.8.8.8"],
)
def test_addresses_in_urls_are_masked(text: str) -> None:
    assert "<IP>" in _masked(text)
    assert _masked(text).endswith(text.partition("8.8.8.8")[2] if "8.8" in text else "]:443/")


@pytest.mark.parametrize(
    "number",
    [
        "+1 555 234 5678",
        "+49 (0)30 1234567",
        "+49 30/123456",
        "(555) 234-5678",
        "1-800-234-5678",
        "555.234.5678",
        "+33 1 23 45 67 89",
        "+33.1.23.45.67.89",
        "+33123456789",
        "+61 2 9374 4000",
        "+81 3 1234 5678",
        "+353 1 679 7511",
        "+32 2 555 12 12",
        "+46 8 123 456 78",
        "+1\u00a0212\u00a0555\u20111234",
        "(212)\u00a0555-1234",
    ],
)
def test_telephone_numbers_are_masked(number: str) -> None:
    assert _masked(f"Call {number}, or write.") == "Call <PHONE>, or write."


@pytest.mark.parametrize(
    "text",
    [
        "version 8.1.2.3",
        "version is 8.8.8.8",
        "kernel 5.15.0.91",
        "Acrobat Reader 9.3.2.1",
        "Firefox 3.6.13.0",
        "6.0.2.1 firmware",
        "section 1.2.3.4",
        "chapter 4.3.2.1",
        "OID 1.3.6.1",
        "§ 1.2.3.4",
        "10.0.0.1-10.0.0.9",
        "::ffff:10.0.0.1",
        "icon@2x.png",
        "logo@3x.PNG",
        "+51.507351, -0.127758",
        "+3.14159265",
        "+1.5678 9012",
        "+20 30 40 50",
        "+12 34 56 78",
        "+999 1234 5678",
        "123-456-7890",
        "111-222-3333",
        "Version: 8.1.2.3",
        "v8.1.2.3",
        "v 8.1.2.3",
        "Chrome/91.0.0.0 Safari",
        "firmware 8.1.2.3",
        "8.1.2.3.4",
        "8.1.2",
        "8.1.2.3-beta",
        "lib-8.1.2.3",
        "8.1.2.300",
        "08.1.2.3",
        "8.1.2.3.dev1",
        "192.168.0.1",
        "127.0.0.1",
        "10.1.2.3",
        "224.0.0.1",
        "12:30:45",
        "std::vector<a::b>",
        "dead::beef",
        "fe80::1",
        "2001:db8::1",
        "::1",
        "00:1a:2b:3c:4d:5e",
        "Genesis 2:4",
        "@example",
        "a@b",
        "user@localhost",
        "a @ example.org",
        "2024-01-02",
        "2024-01-02 10:00",
        "978-3-16-148410-0",
        "1234567890",
        "+1",
        "1+2345678",
        "x-555-234-5678",
        "555-234-56789",
        "4111 1111 1111 1111",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    for sentence in (text, f"See {text} here.", f"({text})"):
        assert _masked(sentence) == sentence


def test_what_stands_beside_an_address_stays() -> None:
    assert _masked("'john@example.org' wrote") == "'<EMAIL>' wrote"
    assert _masked("邮箱a@b.com请") == "邮箱<EMAIL>请"
    assert _masked("[IPv6:2607:f8b0:4004:800::200e]") == "[IPv6:<IP>]"
    assert _masked("联系8.8.8.8") == "联系<IP>"


def test_what_was_masked_is_counted() -> None:
    decision = Masking().judge(Document("a@b.org, c@d.org and 8.8.8.8", "here"))
    assert decision is not None
    assert (decision.rule, decision.detail) == ("masking", "2 email, 1 ipv4")


def test_none_leaves_a_sort_alone() -> None:
    decision = Masking(email=None, phone="").judge(Document("a@b.org 8.8.8.8 (555) 234-5678.", "here"))
    assert decision is not None
    assert decision.text == "a@b.org <IP> ."


def test_a_replacement_that_is_an_address_is_not_replaced_again() -> None:
    masking = Masking(email="email@example.com", ip="22.214.171.124")
    decision = masking.judge(Document("a@b.org 8.8.8.8", "here"))
    assert decision is not None
    assert decision.text == "email@example.com 22.214.171.124"
    assert masking.judge(Document(decision.text, "here")) is None


def test_replacements_that_mask_each_other_are_refused() -> None:
    with pytest.raises(ProblemError, match="masked itself"):
        Masking(email="8.8.8.8")


_PIECES = st.sampled_from(
    [
        "8.8.8.8",
        "1.2",
        "-",
        ".",
        "@",
        "a@b.org",
        "+",
        "+49 30 1234567",
        "::",
        "2a00:",
        "1",
        "f",
        " ",
        "/",
        "v",
        "<",
        "\n",
    ]
)


@settings(deadline=None)
@given(st.lists(_PIECES, max_size=12).map("".join))
def test_what_is_masked_is_clean(text: str) -> None:
    assert _masked(_masked(text)) == _masked(text)


def test_long_runs_do_not_take_long() -> None:
    for run in ("1.", "a.", "1:", "+1 ", "(555) ", "x@", "a@a.", "8.8.8.8 "):
        _masked(run * 20_000)
