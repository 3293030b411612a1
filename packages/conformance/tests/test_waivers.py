"""A waiver excuses one law, for a reason, until a date, and while it is needed."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import pytest
from broken import general, server

from penstock.conformance import Report, Status, Waiver, check, parametrize_contract
from penstock.conformance.contract import Case

LAW = "server/the-command-names-where-it-listens"
DAY = date(2031, 5, 4)
BROKEN = server.BROKEN[LAW]


def waived(on: date, *, until: date = DAY) -> Report:
    return check(BROKEN, waivers=[Waiver(LAW, "its port is fixed until version 2", until)], today=on)


def contract(waiver: Waiver) -> list[Case]:
    return [case.values[0] for case in parametrize_contract([BROKEN], waivers={"broken": [waiver]}).args[1]]


def test_without_a_waiver_it_fails() -> None:
    assert not check(BROKEN).passed


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_a_waiver_needs_a_reason(reason: str) -> None:
    with pytest.raises(ValueError, match=f"{LAW} needs a reason"):
        Waiver(LAW, reason, DAY)


def test_a_waiver_needs_a_date() -> None:
    with pytest.raises(TypeError, match="until"):
        Waiver(LAW, "a reason")  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("until", [None, "2031-05-04", datetime(2031, 5, 4)])
def test_what_is_no_date_is_refused(until: Any) -> None:
    with pytest.raises(ValueError, match=f"{LAW} needs the date"):
        Waiver(LAW, "a reason", until)


@pytest.mark.parametrize("on", [DAY - timedelta(days=400), DAY])
def test_a_law_is_excused_up_to_the_date_and_the_report_says_so(on: date) -> None:
    report = waived(on)
    assert report.passed
    assert "1 waived" in report.verdict
    (result,) = [result for result in report.results if result.status is Status.WAIVED]
    assert (result.law, result.seen) == (LAW, "until 2031-05-04: its port is fixed until version 2")


def test_an_expired_waiver_fails_and_shows_violation_and_reason() -> None:
    report = waived(DAY + timedelta(days=1))
    assert not report.passed
    (result,) = report.broken
    assert result.law == LAW
    assert result.seen.startswith("no argument has 48213")
    assert "waived until 2031-05-04: its port is fixed until version 2" in result.seen


def test_a_waiver_that_is_not_needed_fails() -> None:
    report = check(server.GOOD, waivers=[Waiver(LAW, "a reason", DAY)], today=DAY)
    assert [result.law for result in report.broken] == [LAW]
    assert "remove the waiver" in report.broken[0].seen


def test_a_waiver_of_an_unknown_law_is_refused() -> None:
    stray = Waiver("server/no-such-law", "a reason", DAY)
    with pytest.raises(ValueError, match="unknown laws of kind 'server': server/no-such-law"):
        check(BROKEN, waivers=[stray])
    with pytest.raises(ValueError, match="unknown laws of kind 'server': server/no-such-law"):
        contract(stray)


def test_waivers_and_settings_of_an_unknown_component_are_refused() -> None:
    with pytest.raises(ValueError, match="waivers given for unknown components: other"):
        parametrize_contract([BROKEN], waivers={"other": [Waiver(LAW, "a reason", DAY)]})
    with pytest.raises(ValueError, match="settings given for unknown components: other"):
        parametrize_contract([BROKEN], settings={"other": {}})


def test_laws_that_need_a_waived_one_do_not_apply() -> None:
    law = "any/settings-are-arguments-of-the-target"
    report = check(general.BROKEN[law], waivers=[Waiver(law, "a reason", DAY)], today=DAY)
    assert report.passed
    reasons = {result.law: result.seen for result in report.results if result.status is Status.NOT_APPLICABLE}
    assert reasons["server/the-command-names-the-model"] == f"needs {law}, which is waived"


def test_under_pytest_a_waived_law_is_an_expected_failure_until_its_date() -> None:
    today = date.today()
    for until, outcome in ((today, pytest.xfail.Exception), (today - timedelta(days=1), pytest.fail.Exception)):
        (case,) = [case for case in contract(Waiver(LAW, "a reason", until)) if case.law.id == LAW]
        with pytest.raises(outcome, match="a reason"):
            case()
