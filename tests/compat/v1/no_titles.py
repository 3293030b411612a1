"""A filter that drops what is only a title."""

from collections.abc import Iterator

from penstock.hooks import Component, hookimpl
from penstock.hooks.contracts import Document


class NoTitles:
    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        return (document for document in documents if not document.text.startswith("#"))


@hookimpl
def filters() -> list[Component]:
    return [Component(kind="filter", name="no-titles", target="no_titles:NoTitles", summary="Drops titles")]
