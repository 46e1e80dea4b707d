"""Markdown of the specification as HTML that fits the pages: no raw HTML, no address from elsewhere, no style.

Links lead to other chapters or within the chapter; any other target is shown as text. Tables and code can be scrolled
by keyboard. Headings get the ids that links between chapters use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

_CHAPTER = re.compile(r"(?:\./)?([0-9]{2}-[a-z0-9-]+)\.md(#[\w-]+)?")
_HERE = re.compile(r"#[\w-]+")
RESERVED = frozenset(("main", "help", "help-h", "live-status", "contents"))


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading below the title, for the list of contents."""

    level: int
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text as HTML, and its headings."""

    html: Markup
    headings: tuple[Heading, ...]


def slug(text: str, taken: set[str]) -> str:
    """The anchor of a heading as code hosts make it: lower case, hyphens, a number where it is taken."""
    base = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-") or "section"
    found, number = base, 0
    while found in taken or found in RESERVED:
        number += 1
        found = f"{base}-{number}"
    taken.add(found)
    return found


def address(target: str) -> str | None:
    """The address on these pages of a link's target; None if it leads anywhere else."""
    target = unquote(target)
    found = _CHAPTER.fullmatch(target)
    if found:
        return f"/spec/{found[1]}{found[2] or ''}"
    if target in {"README.md", "./README.md", "."}:
        return "/spec"
    return target if _HERE.fullmatch(target) else None


def _inline(token: Token) -> None:
    """Links that stay here; others and images become their words."""
    out: list[Token] = []
    kept: list[bool] = []
    for child in token.children or ():
        if child.type == "link_open":
            here = address(str(child.attrs.get("href", "")))
            kept.append(here is not None)
            if here is None:
                continue
            child.attrs = {"href": here}
        elif child.type == "link_close":
            if not kept.pop():
                continue
        elif child.type == "image":
            child = Token("text", "", 0, content=child.content)
        out.append(child)
    token.children = out


def _words(token: Token) -> str:
    return "".join(child.content for child in token.children or () if child.type in {"text", "code_inline"})


def _tokens(tokens: Sequence[Token]) -> list[Heading]:
    headings: list[Heading] = []
    taken: set[str] = set()
    for number, token in enumerate(tokens):
        if token.type == "inline":
            _inline(token)
        elif token.type == "heading_open":
            words = _words(tokens[number + 1])
            anchor = slug(words, taken)
            token.attrs = {"id": anchor}
            if token.tag != "h1":
                headings.append(Heading(int(token.tag[1]), anchor, words))
        elif token.type in {"th_open", "td_open"}:
            right = "right" in str(token.attrs.pop("style", ""))
            token.attrs = {"class": "n" if right else "w0"}
    return headings


def _scroll(what: str, inside: str) -> str:
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{what}">{inside}</div>\n'


def _code(_renderer: object, tokens: Sequence[Token], at: int, _options: object, _env: object) -> str:
    return (
        f'<pre tabindex="0" role="region" aria-label="Code"><code>{escape(tokens[at].content)}</code></pre>\n'
    )


@lru_cache(maxsize=64)
def render(text: str) -> Rendered:
    """Markdown to HTML; one heading of the first level is the caller's to provide or the text's to have."""
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
    parser.add_render_rule("fence", _code)
    parser.add_render_rule("code_block", _code)
    parser.add_render_rule("table_open", lambda *_: _scroll("Table", "<table>").removesuffix("</div>\n"))
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(text)
    headings = _tokens(tokens)
    return Rendered(Markup(parser.renderer.render(tokens, parser.options, {})), tuple(headings))  # noqa: S704 escaped above
