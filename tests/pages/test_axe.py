"""Every page against WCAG 2.2 AA by axe-core: light and dark, wide and narrow, friendly and hostile contents."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pages import axe
from tests.pages.browser import DRIVER, Browser
from tests.pages.test_routes import ROUTES

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for this file."""
    if DRIVER is None:
        pytest.skip("needs chromedriver")
    made = Browser()
    yield made
    made.close()


@pytest.fixture(scope="module")
def script(pytestconfig: pytest.Config) -> str:
    """axe-core."""
    if axe.NPM is None:
        pytest.skip("needs npm, which fetches axe-core")
    assert pytestconfig.cache is not None
    try:
        return axe.source(pytestconfig.cache.mkdir("axe"))
    except axe.NoNetwork as error:
        if os.environ.get("SPORE_BORG_REQUIRE_BROWSER"):
            raise
        pytest.skip(f"axe-core cannot be fetched: {error}")


def paths(home: Path, *, every: bool) -> list[str]:
    """Addresses to look at.

    Args:
        every: one for every state of a page that looks different; else one for each page.
    """
    db = sqlite3.connect(home / "views.sqlite")

    def some(sql: str) -> list[str]:
        return [str(row[0]) for row in db.execute(sql)]

    found = {
        "record": some("SELECT cid FROM frontier LIMIT 1") + some("SELECT cid FROM shard LIMIT 1"),
        "failure": some("SELECT max(signature) FROM failure"),
        "node": some("SELECT name FROM node ORDER BY banned DESC LIMIT 1"),
    }
    if every:
        found["record"] += some("SELECT max(cid) FROM record GROUP BY kind")
        found["record"] += some("SELECT max(cid) FROM experiment GROUP BY verdict, outcome")
        found["record"] += some("SELECT max(cid) FROM shard GROUP BY member")
    sides = some("SELECT cid FROM experiment ORDER BY seq DESC LIMIT 3")
    db.close()
    compared = "&".join(f"{letter}={cid}" for letter, cid in zip("abc", sides, strict=False))
    given = dict.fromkeys(f"/{what}/{name}" for what, names in found.items() for name in names)
    pages = list(ROUTES) if every else [r for r in ROUTES if "?" not in r or "view=" in r]
    return [*pages, "/nothing", f"/compare?{compared}", *given]


# Every page in both colours and widths; the slow ones: every state of every page, and the other pairs of the two.
LOOKS = (
    ("mesh", False, 360, False),
    ("mesh", True, 1280, False),
    pytest.param("mesh", False, 360, True, marks=pytest.mark.slow),
    pytest.param("mesh", True, 360, False, marks=pytest.mark.slow),
    pytest.param("mesh", False, 1280, False, marks=pytest.mark.slow),
    pytest.param("hostile", True, 360, False, marks=pytest.mark.slow),
)


@pytest.mark.parametrize(("state", "dark", "width", "every"), LOOKS)
def test_no_page_breaks_a_rule(
    state: str, dark: bool, width: int, every: bool, browser: Browser, script: str,
    serve: Callable[[Path], str], homes: Callable[[str], Path],
) -> None:  # fmt: skip
    home = homes(state)
    base = serve(home)
    browser.look(width, dark=dark)
    found = {}
    for path in paths(home, every=every):
        browser.open(base + path)
        browser.js("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        broken = axe.violations(browser, script)
        if broken:
            found[path] = broken
    assert not found, "\n".join(f"{path}\n  " + "\n  ".join(broken) for path, broken in found.items())


@pytest.mark.parametrize("state", ["empty", "one"])
def test_nothing_yet_breaks_no_rule_either(
    state: str, browser: Browser, script: str, serve: Callable[[Path], str], homes: Callable[[str], Path]
) -> None:
    base = serve(homes(state))
    browser.look(360)
    for path in ("/", "/records", "/dag", "/state", "/mesh"):
        browser.open(base + path)
        assert axe.violations(browser, script) == [], path


def test_it_finds_what_is_wrong(
    browser: Browser, script: str, serve: Callable[[Path], str], homes: Callable[[str], Path]
) -> None:
    browser.look(1280)
    browser.open(serve(homes("one")) + "/about")
    browser.js("const p = document.createElement('p'); p.textContent = 'pale'; p.id = 'pale';"
               "document.querySelector('main').append(p);"
               "p.setAttribute('role', 'checkbox');")  # fmt: skip
    assert any("aria" in one for one in axe.violations(browser, script))
