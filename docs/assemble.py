"""Builds the documentation site from the repository: mkdocs calls these functions during the build.

A page keeps its path in the repository, so a link that works in the repository also works on the site. Members are
found, not listed: an app is a guide, a package is a page and its modules are the reference, a plugin is a page.
"""

from __future__ import annotations

import ast
import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SECTIONS = {"Guides": "apps", "Packages": "packages", "Plugins": "plugins"}
PAGES = ["*.md", "*/*/README.md", "packages/*/docs/*.md", "docs/*.md", "docs/*.svg"]
LINK = re.compile(r"(?<=\]\()[^)#:\s]+(?=\))")
TITLE = re.compile(r"(?<=title=)[^\s\"]+$", re.M)
FETCHED = re.compile(
    r"<(?:script|img|iframe)[^>]+src=[\"']?https?:|<link[^>]+href=[\"']?https?:|@import url\(.?https?:"
)


@event_priority(100)  # before mkdocstrings reads its paths
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages of members to their sections, and tells mkdocstrings where the sources are."""
    handlers = config.plugins["mkdocstrings"].config["handlers"]
    handlers["python"]["paths"] = [str(source) for source in sorted(ROOT.glob("packages/*/src"))]
    assert config.nav is not None
    for section in config.nav:
        (name,) = section
        if name in SECTIONS:
            section[name] += [relative(page) for page in sorted(ROOT.glob(f"{SECTIONS[name]}/*/README.md"))]
        elif name == "Reference":
            section[name] += [{title: menu(modules)} for title, modules in reference().items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The repository's pages at their own paths, one reference page per module, and the files of the theme."""
    found = [file for file in files if Path(file.src_dir or "") != Path(config.docs_dir)]
    for path in sorted({path for pattern in PAGES for path in ROOT.glob(pattern)}):
        found.append(File.generated(config, relative(path), abs_src_path=str(path)))
    for modules in reference().values():
        for module, page in modules.items():
            found.append(File.generated(config, page, content=f"# `{module}`\n\n::: {module}\n"))
    return Files(found)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link to a folder leads to its README, as when browsing the repository; code fences keep their titles."""
    folder = posixpath.dirname(page.file.src_uri)

    def readme(link: re.Match[str]) -> str:
        return f"{link[0]}/README.md" if (ROOT / folder / link[0] / "README.md").is_file() else link[0]

    return TITLE.sub(r'"\g<0>"', LINK.sub(readme, markdown))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Raises `PluginError` if a page would load anything from the network."""
    if fetched := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} would load from the network: {fetched[0]}")
    return output


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def reference() -> dict[str, dict[str, str]]:
    """For each package, its documented modules and their pages."""
    return {
        settings["project"]["name"]: dict(modules_of(pyproject.parent / "src"))
        for pyproject in sorted(ROOT.glob("packages/*/pyproject.toml"))
        for settings in [tomllib.loads(pyproject.read_text(encoding="utf-8"))]
    }


def modules_of(source: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        if parts[-1] == "__init__" and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))):
            yield ".".join(parts[:-1]), "/".join(("reference", *parts[:-1], "index.md"))
        elif not parts[-1].startswith("_"):
            yield ".".join(parts), "/".join(("reference", *parts)) + ".md"


def menu(modules: dict[str, str]) -> list[Any]:
    """The pages of a package as mkdocs' nested menu: one section per folder of modules."""
    entries: list[Any] = []
    sections: dict[str, list[Any]] = {}
    for module, page in sorted(modules.items(), key=lambda item: posixpath.dirname(item[1])):
        folder = posixpath.dirname(page)
        section = sections.setdefault(folder, entries if not sections else [])
        if section is not entries and not section:
            entries.append({folder.rpartition("/")[2]: section})
        title = "Overview" if page.endswith("/index.md") else module.rpartition(".")[2]
        section.append(page if title == "Overview" else {title: page})
    return entries
