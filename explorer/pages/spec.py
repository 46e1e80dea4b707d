"""``/spec``, ``/spec/{chapter}`` and ``/licences``: the texts that come with the program, as they are.

The chapters are Markdown. An installed package holds them in ``explorer/chapters``; a source checkout in ``spec``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import ClassVar

from explorer import show
from explorer.db import Db
from explorer.pages.common import frame
from explorer.values import Page
from spore_borg.errors import NotFound

ROOT = Path(__file__).resolve().parents[2]  # of a source checkout
README = "README.md"
LICENCES = ("LICENSE", "NOTICE")
_TITLE = re.compile(r"^# +(.+?)\s*#*$", re.MULTILINE)
_ROW = re.compile(r"^\|\s*\[[^\]]*\]\(([0-9a-z-]+)\.md\)\s*\|\s*(.*?)\s*\|\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A chapter in the list."""

    name: str  # 10-records
    title: str
    says: str  # what it is about, from the list of chapters; may be empty


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecPage(Page):
    """All chapters in order."""

    name: ClassVar[str] = "spec"
    live: ClassVar[tuple[str, ...]] = ()
    chapters: tuple[Chapter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChapterPage(Page):
    """One chapter with its neighbours."""

    name: ClassVar[str] = "chapter"
    live: ClassVar[tuple[str, ...]] = ()
    chapter: Chapter
    text: str  # Markdown
    previous: Chapter | None
    next: Chapter | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One file, as it is."""

    file: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LicencesPage(Page):
    """The licence of the program and its notices."""

    name: ClassVar[str] = "licences"
    live: ClassVar[tuple[str, ...]] = ()
    texts: tuple[Text, ...]


def _folder() -> Traversable | None:
    """Where the chapters are; None if this installation has none."""
    for folder in (resources.files("explorer").joinpath("chapters"), ROOT / "spec"):
        if folder.is_dir():
            return folder
    return None


@cache
def chapters() -> dict[str, tuple[Chapter, str]]:
    """Every chapter with its text, by name, in order; read once."""
    folder = _folder()
    if folder is None:
        return {}
    texts = {
        item.name: item.read_text(encoding="utf-8") for item in folder.iterdir() if item.name.endswith(".md")
    }
    says = dict(_ROW.findall(texts.get(README, "")))
    found: dict[str, tuple[Chapter, str]] = {}
    for file in sorted(texts):
        name = file.removesuffix(".md")
        if show.is_chapter(name):
            title = _TITLE.search(texts[file])
            about = Chapter(name=name, title=title[1] if title else name, says=says.get(name, ""))
            found[name] = (about, texts[file])
    return found


def spec(db: Db) -> SpecPage:
    """Build the list of chapters."""
    return SpecPage(frame=frame(db), chapters=tuple(about for about, _ in chapters().values()))


def chapter(db: Db, name: str) -> ChapterPage:
    """Build the page of one chapter.

    Args:
        name: as its file is called, without ``.md``.
    Raises:
        NotFound: no such chapter.
    """
    found = chapters()
    if name not in found:
        raise NotFound(what="chapter", name=show.plain(name, 80), hint="/spec lists those that there are.")
    names = list(found)
    at = names.index(name)
    about, text = found[name]
    return ChapterPage(
        frame=frame(db),
        chapter=about,
        text=text,
        previous=found[names[at - 1]][0] if at else None,
        next=found[names[at + 1]][0] if at + 1 < len(names) else None,
    )


@cache
def _licence(file: str) -> str:
    """A licence text: of this checkout, else of the installed package; empty if neither has it."""
    beside = ROOT / file
    if (ROOT / "pyproject.toml").is_file() and beside.is_file():
        return beside.read_text(encoding="utf-8")
    try:
        return metadata.distribution("spore-borg").read_text(f"licenses/{file}") or ""
    except metadata.PackageNotFoundError:
        return ""


def licences(db: Db) -> LicencesPage:
    """Build the page of licence texts."""
    texts = (Text(file=file, text=_licence(file)) for file in LICENCES)
    return LicencesPage(frame=frame(db), texts=tuple(text for text in texts if text.text))
