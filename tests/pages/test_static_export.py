"""The pages as files: every link leads to a file, from anywhere; the same bytes again; nothing local."""

from __future__ import annotations

import html
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from explorer import static_site
from explorer.static_site import resolve
from spore_borg.errors import NotFound, UsageError
from spore_borg.records.cid import Cid
from tests.pages import browser, fixtures
from tests.pages.fixtures import TICKET
from tests.pages.test_foreign import tree
from tests.pages.test_server import bump

URL = "https://me.example/some/mesh"
Homes = Callable[[str], Path]
RECORDS = 20


class Links(HTMLParser):
    """Every address that a page names."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            (name, value or "") for name, value in attrs if name in {"href", "src", "action", "content"}
        ]


def crawl(site: Path, url: str = "") -> set[str]:
    """Check that every link of every page leads to a file of the site; gives the files that a reader can reach."""
    seen: set[str] = set()
    todo = ["index.html", "404.html", "robots.txt", static_site.MANIFEST] + ["sitemap.xml"] * bool(url)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = site / name
        assert path.is_file(), f"{name} is not there"
        if path.suffix != ".html":
            continue
        for kind, value in Links(path.read_text(encoding="utf-8")).found:
            if kind == "content" and not (url and value.startswith(f"{url}/")):
                continue
            if url and value.startswith(url):
                to = value.removeprefix(url).lstrip("/") or "index.html"
            elif name == "404.html" and url:
                assert value.startswith(urlsplit(url).path) or value.startswith("#"), value
                to = value.removeprefix(urlsplit(url).path).lstrip("/") or "index.html"
            else:
                assert not urlsplit(value).scheme, (name, value)
                assert not value.startswith("/"), (name, value)
                place = unquote(urlsplit(value).path)
                if not place:
                    continue
                to = (path.parent / place).resolve().relative_to(site.resolve()).as_posix()
            todo.append(unquote(urlsplit(to).path))
    return seen


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of 300 records: a site of it is written in seconds."""
    return fixtures.mesh(tmp_path_factory.mktemp("small") / "home", 300)


@pytest.fixture(scope="module")
def written(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, static_site.Done]:
    """The site of that home, written once for every test that only reads it."""
    site = tmp_path_factory.mktemp("written") / "site"
    return site, static_site.write(small, site, public_url=f"{URL}/", records=RECORDS)


@pytest.mark.parametrize(("state", "url"), [("empty", ""), ("one", ""), ("hostile", URL), ("mesh", URL)])
def test_every_link_leads_to_a_file(
    state: str, url: str, homes: Homes, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if state == "mesh":
        site, done = request.getfixturevalue("written")
    else:
        site = tmp_path / "site"
        done = static_site.write(homes(state), site, public_url=url or None, records=20)
    reached = crawl(site, url)
    left = {name for name in tree(site) if name not in reached}
    assert not [name for name in left if name.endswith(".html")]
    assert all(name.endswith((".json", ".png", ".svg")) for name in left), left  # previews and unlinked twins
    assert done.files + 1 == len(tree(site))
    print(f"{state}: {done.pages} pages, {done.files} files, {done.size_bytes:,} bytes")


def test_again_gives_the_same_bytes(homes: Homes, tmp_path: Path) -> None:
    for name in ("a", "b"):
        static_site.write(homes("one"), tmp_path / name, public_url=URL)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.html")}
    done = static_site.write(homes("one"), tmp_path / "a", public_url=URL)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.html")} == before
    assert done.removed == 0


def test_what_belongs_to_it(small: Path, written: tuple[Path, static_site.Done]) -> None:
    home, site = small, written[0]
    names = set(tree(site))
    for page in (
        "index",
        "frontier",
        "records",
        "verify",
        "reputation",
        "mesh",
        "dag",
        "tasks",
        "about",
        "spec",
        "404",
    ):
        assert f"{page}.html" in names, page
    assert {
        "overview.json",
        "frontier.json",
        "plot.svg",
        "robots.txt",
        "frontier.csv",
        "dag~spine~" not in names,
    }
    db = sqlite3.connect(home / "views.sqlite")
    best = {row[0] for row in db.execute("SELECT cid FROM frontier")}
    newest = {row[0] for row in db.execute("SELECT cid FROM experiment ORDER BY seq DESC LIMIT 20")}
    db.close()
    for cid in best | newest:
        assert {f"record/{cid}.html", f"record/{cid}.json", f"record/{cid}.cbor"} <= names
    for cid in best:
        assert str(Cid.of((site / "record" / f"{cid}.cbor").read_bytes())) == cid
    twin = json.loads((site / "overview.json").read_text())
    assert (twin["page"], twin["running"]) == ("overview", None)
    assert twin["frame"]["records"] >= 300
    assert "noindex" not in (site / "index.html").read_text()


def test_nothing_local_and_nothing_live(small: Path, written: tuple[Path, static_site.Done]) -> None:
    site = written[0]
    for name, raw in tree(site).items():
        if name.startswith("static/"):
            continue
        for local in (TICKET, "127.0.0.1", str(small), "4711"):
            if local != "4711" or name in {"about.html", "about.json", "mesh.html"}:
                assert local.encode() not in raw, (name, local)
        if name.endswith(".html"):
            assert b"data-live" not in raw
            assert b"<form action" not in raw


def test_previews_name_whole_addresses(written: tuple[Path, static_site.Done]) -> None:
    site = written[0]
    text = (site / "index.html").read_text()
    assert f'<meta property="og:url" content="{URL}/">' in text
    assert f'<link rel="canonical" href="{URL}/">' in text
    picture = re.search(rf'<meta property="og:image" content="{URL}/(plot[^"]+)"', text)
    assert picture
    assert (site / html.unescape(picture[1])).is_file()
    assert f"{URL}/frontier.html" in (site / "sitemap.xml").read_text()
    assert f'href="{urlsplit(URL).path}/index.html"' in (site / "404.html").read_text()


def test_hostile_text_stays_text(homes: Homes, tmp_path: Path) -> None:
    site = tmp_path / "site"
    static_site.write(homes("hostile"), site, public_url=URL)
    for path in site.rglob("*.html"):
        text = path.read_text()
        assert "<script>alert" not in text
        assert "<img" not in text
        assert not [value for kind, value in Links(text).found if kind != "content" and "evil" in value]
    assert {path.name for path in tmp_path.iterdir()} == {"site"}


def test_the_last_export_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    home, site = fixtures.mesh(tmp_path / "home", 60), tmp_path / "site"
    static_site.write(home, site, records=10)
    (site / "CNAME").write_text("mine")
    done = static_site.write(home, site, records=2)
    assert done.removed > 0
    assert (site / "CNAME").read_text() == "mine"
    assert set(tree(site)) == {*done.names, "CNAME", static_site.MANIFEST}
    bump(home, 10_000)
    crawl(site)
    with pytest.raises(UsageError, match="holds other files"):
        static_site.write(home, home)
    assert (home / "views.sqlite").exists()
    with pytest.raises(UsageError, match="is a file"):
        static_site.write(home, site / "CNAME")
    with pytest.raises(NotFound, match="borg run"):
        static_site.write(tmp_path / "none", tmp_path / "other")
    with pytest.raises(UsageError, match="no address of a site"):
        static_site.write(home, tmp_path / "other", public_url="me.example")
    assert not (tmp_path / "other").exists()


def test_addresses_and_their_files() -> None:
    def file(href: str) -> str | None:
        found = resolve(href)
        return None if found is None else found.file

    cid = "b" + "a" * 58
    assert file("/") == "index.html"
    assert file("/overview.json") == "overview.json"
    assert file(f"/record/{cid}") == f"record/{cid}.html"
    assert file(f"/record/{cid}.json") == f"record/{cid}.json"
    assert file(f"/record/{cid}.cbor") == f"record/{cid}.cbor"
    assert file("/plot.svg") == "plot.svg"
    assert file("/?task=nano&x=experiment") == file("/?task=nano")
    assert file("/?task=a/../b") != file("/?task=a-..-b")
    assert re.fullmatch(r"index~a-b~[0-9a-f]{8}\.html", file("/?task=a/../b") or "")
    for href in (
        "/events",
        "https://x.example/",
        "//x.example/",
        "/records.csv?q=x",
        "#main",
        "/nothing",
        "/?q=x",
    ):
        assert file(href) is None, href


@pytest.mark.browser
@pytest.mark.skipif(not (browser.CHROMIUM and browser.DRIVER), reason="needs Chromium and chromedriver")
def test_a_browser_shows_it_from_a_folder(written: tuple[Path, static_site.Done], tmp_path: Path) -> None:
    shutil.copytree(written[0], tmp_path / "moved")
    chromium = browser.Browser()
    try:
        chromium.look(1280)
        chromium.open((tmp_path / "moved" / "index.html").as_uri())
        assert chromium.js("return getComputedStyle(document.querySelector('header')).display") == "flex"
        chromium.js("window.failed=[];addEventListener('error',e=>failed.push(e.message));")
        chromium.keys("/", "j", "?", "Escape")
        assert chromium.js("return window.failed") == []
        chromium.keys("g", "f")
        chromium.wait("return location.pathname.endsWith('frontier.html')")
        chromium.js("document.querySelector('main a[href^=\"record/\"]').click()")
        chromium.wait("return location.pathname.includes('/record/')")
        assert chromium.js("return getComputedStyle(document.querySelector('header')).display") == "flex"
        chromium.js("document.querySelector('header b a').click()")
        chromium.wait("return location.pathname.endsWith('index.html')")
    finally:
        chromium.close()
