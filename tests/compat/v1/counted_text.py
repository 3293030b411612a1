"""A corpus that nobody has to download."""

from collections.abc import Iterator

from penstock.hooks import Component, hookimpl
from penstock.hooks.config import Schema
from penstock.hooks.contracts import Document


class CountedSettings(Schema):
    documents: int = 100
    """How many."""


class CountedText:
    def __init__(self, documents: int) -> None:
        self.count = documents

    def documents(self) -> Iterator[Document]:
        for number in range(self.count):
            words = " ".join(f"{number} and {other} make {number + other}." for other in range(number % 9, 20))
            yield Document(f"Sums of {number}: {words}\n", f"counted:{number}")
            yield Document(f"# {number}", f"counted:{number}:title")


@hookimpl
def corpora() -> list[Component]:
    return [
        Component(
            kind="corpus",
            name="counted",
            target="counted_text:CountedText",
            config="counted_text:CountedSettings",
            summary="Sums of small numbers",
            contract=1,
        )
    ]
