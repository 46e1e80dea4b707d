"""What a person does in a real browser: sees a record arrive, follows it to its evidence, uses keys, on a phone too."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pages import fixtures
from tests.pages.browser import DRIVER, Browser

pytestmark = pytest.mark.browser

WATCH = """
window.refused = [];
addEventListener("securitypolicyviolation", e => refused.push(e.violatedDirective + " " + e.blockedURI));
"""
CONTRAST = """
const part = x => x / 255 <= .03928 ? x / 255 / 12.92 : ((x / 255 + .055) / 1.055) ** 2.4;
const lum = c => { const v = c.match(/[\\d.]+/g).map(Number).map(part);
  return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
const clear = c => /, 0\\)$|transparent/.test(c);
const back = e => {
  while (e && clear(getComputedStyle(e).backgroundColor)) e = e.parentElement;
  return e ? getComputedStyle(e).backgroundColor : "rgb(255,255,255)";
};
const bad = [];
for (const e of document.querySelectorAll("main *, header *, footer *")) {
  const words = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  if (!words || !e.checkVisibility() || e.closest("svg")) continue;
  const a = lum(getComputedStyle(e).color), b = lum(back(e)), r = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (r < 4.5) bad.push(e.tagName + "." + e.className + " " + r.toFixed(2));
}
return [...new Set(bad)];
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for this file."""
    if DRIVER is None:
        pytest.skip("needs chromedriver")
    made = Browser()
    yield made
    made.close()


@pytest.fixture
def site(serve: Callable[[Path], str], tmp_path: Path) -> tuple[str, Path]:
    """A served mesh that the test may change."""
    home = fixtures.mesh(tmp_path / "home", 800)
    return serve(home), home


def arrive(home: Path) -> str:
    """A copy of the newest experiment arrives as a new record."""
    cid = "bafyrei" + "a" * 52
    db = sqlite3.connect(home / "views.sqlite")
    db.row_factory = sqlite3.Row
    with db:
        for table in ("record", "experiment"):
            row = dict(
                db.execute(f"SELECT * FROM {table} WHERE seq=(SELECT max(seq) FROM experiment)").fetchone()
            )
            row |= {"seq": 99_999, "cid": cid}
            row |= {"title": "just arrived"} if table == "record" else {"changed": "[]"}
            marks = ",".join("?" * len(row))
            db.execute(f"INSERT INTO {table}({','.join(row)}) VALUES({marks})", list(row.values()))
        db.execute("UPDATE meta SET value='123456' WHERE key='version'")
    db.close()
    return cid


def test_a_record_arrives_while_the_page_is_open(browser: Browser, site: tuple[str, Path]) -> None:
    base, home = site
    browser.look(1280)
    browser.open(base + "/")
    browser.wait("return document.querySelector('#live-status').textContent === 'live'")
    browser.js(
        "document.querySelector('#steps').open = true; document.querySelector('#newest a').focus(); window.kept = 1"
    )
    cid = arrive(home)
    browser.wait("return document.querySelector('#newest').textContent.includes('just arrived')")
    assert browser.js("return window.kept") == 1  # not a reload
    assert browser.js(
        "return document.activeElement.closest('#newest') !== null"
    )  # focus stayed where it was
    browser.js(f"document.querySelector('a[href=\"/record/{cid}\"]').click()")
    browser.wait(f"return location.pathname === '/record/{cid}'")


def test_from_the_best_to_its_evidence_and_ledger(browser: Browser, site: tuple[str, Path]) -> None:
    base, _ = site
    browser.look(1280)
    browser.open(base + "/")
    browser.js("document.querySelector('#cards a').click()")
    browser.wait("return location.pathname.startsWith('/record/') && document.readyState === 'complete'")
    assert browser.js("return document.querySelectorAll('.stands li').length") == 6
    assert "pass" in str(browser.js("return document.querySelector('[aria-label=Attestations]').textContent"))
    assert "correct evidence" in str(
        browser.js("return document.querySelector('[aria-label=\"Ledger entries\"]').textContent")
    )
    browser.js("document.querySelector('[aria-label=Attestations] a[href^=\"/node/\"]').click()")
    browser.wait("return location.pathname.startsWith('/node/') && document.readyState === 'complete'")
    assert "correct evidence" in str(browser.js("return document.querySelector('#ledger').textContent"))


def test_the_keyboard_reaches_everything(browser: Browser, site: tuple[str, Path]) -> None:
    base, _ = site
    browser.look(1280)
    browser.open(base + "/")
    browser.wait("return document.querySelector('#live-status').textContent === 'live'")
    browser.keys("Tab")
    assert browser.js("return document.activeElement.className") == "skip"
    browser.keys("j", "j")
    first = browser.js("return document.activeElement.getAttribute('href')")
    assert str(first).startswith("/record/")
    browser.keys("?")
    assert browser.js("return document.querySelector('#help').open")
    browser.keys("Escape", "g", "r")
    browser.wait("return location.pathname === '/records' && document.readyState === 'complete'")
    browser.keys("/")
    assert browser.js("return document.activeElement.name") == "q"
    browser.keys("b", "e", "t", "a", "2", "Enter")
    browser.wait("return location.search === '?q=beta2' && document.readyState === 'complete'")
    assert "beta2" in str(browser.js("return document.querySelector('#rows').textContent"))
    browser.keys("g", "v")
    browser.wait("return location.pathname === '/verify' && document.readyState === 'complete'")
    browser.keys("g", "d")
    browser.wait("return location.pathname === '/dag' && document.readyState === 'complete'")
    browser.keys("]")
    browser.wait("return location.search.includes('before=') && document.readyState === 'complete'")
    browser.keys("g", "m")
    browser.wait("return location.pathname === '/mesh'")


def test_a_row_of_the_graph_is_as_high_as_its_text(browser: Browser, site: tuple[str, Path]) -> None:
    base, _ = site
    browser.look(360)
    browser.open(base + "/dag")
    off = browser.js("""return [...document.querySelectorAll('td.graph')].map(td => {
      const row = td.getBoundingClientRect(), line = td.firstElementChild.getBoundingClientRect();
      return Math.abs(line.top - row.top) + Math.abs(line.bottom - row.bottom); })""")
    assert isinstance(off, list)
    assert len(off) > 50
    assert max(float(one) for one in off) <= 2.5


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("dark", [False, True])
def test_readable_in_both_colours_and_widths(
    browser: Browser, site: tuple[str, Path], width: int, dark: bool
) -> None:
    base, _ = site
    browser.look(width, dark=dark)
    browser.open(base + "/")
    best = str(browser.js("return document.querySelector('#cards a').getAttribute('href')"))
    back = str(browser.js("return getComputedStyle(document.body).backgroundColor"))
    assert (back == "rgb(18, 19, 15)") is dark
    side = best.removeprefix("/record/")
    paths = [
        "/",
        best,
        "/records",
        "/verify",
        "/reputation",
        "/frontier",
        "/about",
        "/nothing",
        "/dag",
        "/dag?view=spine",
    ]
    for path in [
        *paths,
        f"/dag?cid={side}",
        f"/compare?a={side}&b={side}&c={side}",
        "/mesh",
        "/tasks",
        "/api",
        "/state",
        "/failures",
        "/spec/11-kinds",
        "/licences",
    ]:
        browser.open(base + path)
        assert browser.js("return document.documentElement.scrollWidth <= innerWidth"), path
        assert browser.js(CONTRAST) == [], path


def test_a_part_of_the_plot_by_hand_and_by_keys(browser: Browser, site: tuple[str, Path]) -> None:
    base, _ = site
    browser.look(1280)
    browser.open(base + "/")
    browser.wait("return document.querySelector('#live-status').textContent === 'live'")
    box = browser.js("""const b = document.querySelector('#plot svg').getBoundingClientRect();
      return [b.left, b.top + b.height / 2, b.width]""")
    assert isinstance(box, list)
    left, y, width = (float(v) for v in box)
    whole = browser.js("return +document.querySelector('#plot svg').dataset.high")
    browser.drag(left + width / 2, left + width * 0.75, y)
    browser.wait("return location.search.includes('from=') && document.readyState === 'complete'")
    low, high = browser.js("const d = document.querySelector('#plot svg').dataset; return [+d.low, +d.high]")  # type: ignore[misc]
    assert 0.42 * whole < low < 0.52 * whole < high < 0.8 * whole  # type: ignore[operator]
    browser.keys("-")
    browser.wait("return !location.search.includes('from=') && document.readyState === 'complete'")
    browser.keys("+")
    browser.wait("return location.search.includes('from=') && document.readyState === 'complete'")
    assert browser.js("return +document.querySelector('#plot svg').dataset.high") == whole


def test_it_works_without_scripts(browser: Browser, site: tuple[str, Path]) -> None:
    base, _ = site
    browser.look(1280, scripts=False)
    browser.open(base + "/records?verdict=confirmed")
    document = browser.cdp("DOM.getDocument")
    assert isinstance(document, dict)
    found = browser.cdp("DOM.querySelectorAll", nodeId=document["root"]["nodeId"], selector="#rows tbody tr")
    assert isinstance(found, dict)
    assert len(found["nodeIds"]) > 10
    browser.look(1280)


def test_the_policy_refuses_nothing_of_ours(browser: Browser, site: tuple[str, Path]) -> None:
    base, _ = site
    browser.look(1280)
    browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    for path in (
        "/",
        "/records",
        "/dag",
        "/compare",
        "/mesh",
        "/verify",
        "/reputation",
        "/tasks",
        "/api",
        "/plot.svg",
    ):
        browser.open(base + path)
        assert browser.js("return window.refused") == [], path
        entries = browser.js(
            "return performance.getEntriesByType('resource').map(e => new URL(e.name).origin)"
        )
        assert isinstance(entries, list)
        assert set(entries) <= {base}
