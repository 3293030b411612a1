"""The conformance kit: the laws of every kind of component, and three ways to hold a component to them.

From Python `check(component)` returns a `Report`; under pytest `parametrize_contract(plugin)` makes a test of every
law; on the command line it is `penstock plugins check NAME`.
"""

from penstock.conformance.contract import parametrize_contract
from penstock.conformance.kit import capabilities, check, laws_of
from penstock.conformance.law import Law, NotApplicable, Subject, Violation
from penstock.conformance.report import Report, Result, Status, Waiver

__all__ = [
    "Law",
    "NotApplicable",
    "Report",
    "Result",
    "Status",
    "Subject",
    "Violation",
    "Waiver",
    "capabilities",
    "check",
    "laws_of",
    "parametrize_contract",
]
