"""The public pages as files for any web host: no server, no script that needs one, links that work from anywhere.

Begins with the pages of the list of addresses and follows their links. Which pages belong to the site is decided when a
link to one is first seen, so that a link leads either to a file or nowhere: an address that needs a server (a search, a
page far down a list) keeps its words and loses its link. The same views give the same bytes.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from explorer import export, files, pages, png, render
from explorer.db import Db
from explorer.pages.body import raw_of
from explorer.pages.common import LAST, task_briefs
from explorer.routes import ROUTES, Route
from explorer.throttle import public_url
from explorer.values import Page, to_json
from spore_borg.errors import BorgError, NotFound, UsageError

MANIFEST = "site.json"
MADE_BY = "borg explorer --export"
NEEDS_A_SERVER = frozenset(("compare", "api"))
PAGES_MAX = 20  # of one list whose pages go on by key
PLACES_MAX = 1_000  # pages of one kind with an id in their address
SMALL_TABLES = ("frontier", "reputation", "tasks")
_TAG = re.compile(r"<([a-zA-Z][\w-]*)((?:\s[^<>]*)?)>")
_ATTRIBUTE = re.compile(r'\s(href|src|content|action|data-live)="([^"]*)"')
_FORM = re.compile(r'<form\b[^>]*\baction="([^"]*)"[^>]*>(.*?)</form>', re.DOTALL)
_SELECT = re.compile(r'<select name="(\w+)">(.*?)</select>', re.DOTALL)
_OPTION = re.compile(r'<option value="([^"]*)"( selected)?>([^<]*)</option>')
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Address:
    """One address of the explorer: which page, of what, and in which form."""

    route: Route
    places: tuple[str, ...]
    asked: tuple[tuple[str, str], ...]
    form: str  # html, json, svg, png, cbor or csv

    @property
    def key(self) -> tuple[object, ...]:
        """The page, whatever its form."""
        return (self.route.page, self.places, self.asked)

    @property
    def file(self) -> str:
        """Its file below the site."""
        twin = self.form == "json"
        path = (self.route.json if twin else self.route.path).removesuffix(f".{self.form}").lstrip("/")
        for value in self.places:
            path = re.sub(r"\{\w+\}", value, path, count=1)
        words = [_NOT_A_NAME.sub("-", value)[:24].strip("-") for _, value in self.asked]
        if self.asked:
            mark = hashlib.sha256(json.dumps(self.asked).encode()).hexdigest()[:8]
            words.append(mark)
        return "~".join([path or "index", *words]) + f".{self.form}"


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", "([^/]+)", re.escape(path)))


_MATCHERS = tuple((route, _pattern(route.path), _pattern(route.json)) for route in ROUTES)


def resolve(href: str) -> Address | None:
    """What an address of ours stands for; None for what is no page (a file, the stream of news, another site)."""
    parts = urlsplit(href)
    if parts.scheme or parts.netloc or not parts.path.startswith("/"):
        return None
    path = parts.path
    given = {name: value for name, value in parse_qsl(parts.query) if (name, value) != ("x", "experiment")}
    for name in SMALL_TABLES:
        if path == f"/{name}.csv" and not given:
            route = next(route for route in ROUTES if route.path == f"/{name}")
            return Address(route, (), (), "csv")
    form = ""
    if path.startswith("/record/") and path.endswith(".cbor"):
        path, form = path.removesuffix(".cbor"), "cbor"
    for route, page, twin in _MATCHERS:
        own = "json" if not form and (found := twin.fullmatch(path)) else ""
        found = twin.fullmatch(path) if own else page.fullmatch(path)
        if found and set(given) <= set(route.query):
            suffix = Path(route.path).suffix.lstrip(".")
            asked = tuple((name, given[name]) for name in route.query if given.get(name))
            return Address(
                route, found.groups(), asked, form or own or (suffix if suffix in {"svg", "png"} else "html")
            )
    return None


def make(db: Db, address: Address) -> Page:
    """Build the page of an address.

    Raises:
        NotFound: what it names is not here. UsageError: it asks for what cannot be.
    """
    function = getattr(pages, address.route.page)
    asked = dict(address.asked)
    if "class" in asked and address.route.page != "records":
        asked["hardware_class"] = asked.pop("class")
    page = function(db, *address.places, **asked)
    assert isinstance(page, Page)
    return page


@dataclass(slots=True)
class Done:
    """What was written."""

    pages: int = 0
    files: int = 0
    size_bytes: int = 0
    removed: int = 0
    names: list[str] = field(default_factory=list)


class Site:
    """One site while it is written.

    Args:
        db: the views, in a snapshot. url: where the site will be, without a slash at the end; may be empty.
        records: so many of the newest records.
    """

    def __init__(self, db: Db, folder: Path, url: str, records: int) -> None:
        self.db = db
        self.folder = folder
        self.url = url
        self.records = records
        self.done = Done()
        self.best, self.cids = self._records()
        self.chosen: dict[tuple[object, ...], bool] = {}
        self.counts: Counter[str] = Counter()
        self.todo: deque[Address] = deque()
        self.seen: set[Address] = set()

    def _records(self) -> tuple[frozenset[str], frozenset[str]]:
        """Ids of the frontier's steps, and of all records of the site."""
        best: set[str] = set()
        tasks = task_briefs(self.db)
        for task in tasks:
            for row in self.db.all("classes", task=task.cid):
                steps = self.db.all("frontier_steps", **{"task": task.cid, "class": row["class"]})
                best |= {step["cid"] for step in steps}
        seqs: list[int] = []
        for name in ("window_records", "window_experiments"):
            seqs += [row["seq"] for row in self.db.all(name, before=LAST, window=self.records)]
        newest = {row["cid"] for row in self.db.all("cids", seqs=json.dumps(sorted(set(seqs))))}
        mesh = {row["value"] for row in self.db.all("meta") if row["key"] == "mesh"}
        known = best | newest | mesh | {task.cid for task in tasks}
        return frozenset(best), frozenset(cid for cid in known if self.db.one("record", cid=cid) is not None)

    # ---- which pages

    def _wants(self, address: Address) -> bool:
        page, asked = address.route.page, dict(address.asked)
        if page in NEEDS_A_SERVER:
            return False
        if page == "record":
            return address.places[0] in self.cids
        if page in {"overview", "picture"}:
            return self._builds(address)
        if page == "dag" and asked.get("view") == "lineage":
            return asked.get("cid") in self.best or set(asked) == {"view"}
        if page == "dag" and asked.get("view") == "spine":
            return self._builds(address)
        if page == "records" and asked.get("kind", "all") != "all":
            return False
        if not set(asked) <= {"kind", "before", "after", "view"} or (address.places and asked):
            return False
        if address.places:
            self.counts[page] += 1
            return self.counts[page] <= PLACES_MAX and self._builds(address)
        self.counts[f"{page} {asked.get('kind')}"] += 1
        rows = -(-self.records // 50) if page in {"records", "dag"} else PAGES_MAX
        return self.counts[f"{page} {asked.get('kind')}"] <= max(1, rows)

    def _builds(self, address: Address) -> bool:
        try:
            make(self.db, address)
        except (NotFound, UsageError):
            return False
        return True

    def target(self, href: str) -> str | None:
        """The file to which an address leads, or None; what belongs to the site will be written."""
        if href.startswith("/static/"):
            return href.removeprefix("/")
        address = resolve(href)
        if address is None:
            return None
        if address.key not in self.chosen:
            self.chosen[address.key] = self._wants(address)
        if not self.chosen[address.key] or (address.form == "png" and not self.can_png):
            return None
        if address.form == "cbor" and raw_of(self.db, address.places[0]) is None:
            return None
        if address not in self.seen:
            self.seen.add(address)
            self.todo.append(address)
        fragment = urlsplit(href).fragment
        return address.file + (f"#{fragment}" if fragment else "")

    @property
    def can_png(self) -> bool:
        """Whether pictures can be made as PNG here."""
        try:
            png.png('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>', 1)
        except BorgError:
            return False
        return True

    # ---- one page

    def _forms(self, text: str) -> str:
        """Forms need a server: one that chooses among a few becomes links, any other goes."""

        def links(found: re.Match[str]) -> str:
            selects = _SELECT.findall(found[2])
            if len(selects) != 1:
                return ""
            name, options = selects[0]
            out = []
            for value, chosen, label in _OPTION.findall(options):
                to = html.escape(render.query(html.unescape(found[1]), **{name: html.unescape(value)}))
                out.append(
                    f'<a href="{to}"{" aria-current=" + chr(34) + "page" + chr(34) if chosen else ""}>{label}</a>'
                )
            return f'<nav aria-label="{name}">{"".join(out)}</nav>'

        return _FORM.sub(links, text)

    def rewrite(self, text: str, prefix: str, canonical: str) -> str:
        """A page as a file: links to files, or none.

        Args:
            prefix: from this file to the site's root, such as ``../``. canonical: its own whole address, or empty.
        """

        def attribute(found: re.Match[str]) -> str:
            name, value = found[1], html.unescape(found[2])
            if name == "data-live":
                return ""
            if name == "content":
                if not self.url or not value.startswith(f"{self.url}/"):
                    return found[0]
                to = self.target(value.removeprefix(self.url))
                return f' content="{html.escape(self._whole(to or ""))}"'
            if not value.startswith("/"):
                return found[0]
            to = self.target(value)
            return "" if to is None else f' {name}="{html.escape(prefix + to)}"'

        def tag(found: re.Match[str]) -> str:
            return f"<{found[1]}{_ATTRIBUTE.sub(attribute, found[2])}>"

        text = _TAG.sub(tag, self._forms(text))
        link = f'<link rel="canonical" href="{html.escape(canonical)}"></head>'
        return text.replace("</head>", link, 1) if canonical else text

    def _whole(self, file: str) -> str:
        """The whole address of a file, or empty."""
        return f"{self.url}/{quote(file.removesuffix('index.html'), safe='/~')}" if self.url else ""

    def body(self, address: Address) -> bytes:
        """The bytes of one file."""
        if address.form == "cbor":
            found = raw_of(self.db, address.places[0])
            assert found is not None
            return found[0]
        if address.form == "csv":
            rows = export.pieces(self.db.home, address.route.page, {})
            return b"".join(export.form(address.route.page, "csv", rows))
        page = make(self.db, address)
        if address.form == "json":
            return to_json(page).encode()
        if isinstance(page, pages.PlotPage):
            picture = render.plot_svg(page)
            return picture.encode() if address.form == "svg" else png.png(picture)
        self.done.pages += 1
        path = address.route.path
        for value in address.places:
            path = re.sub(r"\{\w+\}", value, path, count=1)
        text = render.html(page, path, self.url)
        prefix = "../" * address.file.count("/")
        return self.rewrite(text, prefix, self._whole(address.file)).encode()

    # ---- all of them

    def write(self) -> Done:
        """Write every file."""
        for name, raw in sorted(render.static_files().items()):
            self._put(f"static/{name}", raw)
        for route in ROUTES:
            if "{" not in route.path:
                self.target(route.path)
        while self.todo:
            address = self.todo.popleft()
            self._put(address.file, self.body(address))
            if address.form == "html":  # its twin, too
                self.target(self._twin(address))
        root = f"{urlsplit(self.url).path}/" if self.url else ""
        lost = render.problem_html(404, "Not found", "There is no such page here.")
        self._put("404.html", self.rewrite(lost, root, "").encode())
        self._put("robots.txt", self._robots().encode())
        if self.url:
            self._put("sitemap.xml", self._sitemap().encode())
        return self.done

    def _twin(self, address: Address) -> str:
        path = address.route.json
        for value in address.places:
            path = re.sub(r"\{\w+\}", value, path, count=1)
        return render.query(path, **dict(address.asked))

    def _robots(self) -> str:
        return "User-agent: *\nAllow: /\n" + (f"Sitemap: {self.url}/sitemap.xml\n" if self.url else "")

    def _sitemap(self) -> str:
        found = [self._whole(name) for name in sorted(self.done.names) if name.endswith(".html")]
        rows = "".join(
            f"<url><loc>{html.escape(to)}</loc></url>\n" for to in found if not to.endswith("404.html")
        )
        space = "http://www.sitemaps.org/schemas/sitemap/0.9"
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="{space}">\n{rows}</urlset>\n'

    def _put(self, name: str, raw: bytes) -> None:
        files.put(self.folder / name, raw)
        self.done.names.append(name)
        self.done.files += 1
        self.done.size_bytes += len(raw)


def _before(folder: Path) -> list[str]:
    """Files of the last export in this folder.

    Raises:
        UsageError: the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(detail=f"{folder} is a file. Give a directory, which will be made.")
    if not folder.exists() or not any(folder.iterdir()):
        return []
    try:
        said = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if said["made_by"] == MADE_BY:
            return [str(name) for name in said["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    detail = (
        f"{folder} holds other files, and an export also removes what its pages no longer need. Give another."
    )
    raise UsageError(detail=detail)


def _gone(folder: Path, names: list[str]) -> Iterator[Path]:
    for name in names:
        path = folder / name
        if not Path(name).is_absolute() and ".." not in Path(name).parts and path.is_file():
            yield path


def write(home: Path, folder: Path, *, public_url: str | None = None, records: int = 500) -> Done:
    """Write the public pages of a directory as a site.

    Args:
        home: a node's directory. folder: a new or empty directory, or that of an export before.
        public_url: where the site will be, for links that must be whole (previews in chats, search engines).
        records: pages for so many of the newest records, besides those of the frontier.
    Raises:
        NotFound: no node has run there. UsageError: a folder or address that cannot be.
    """
    url = _address(public_url)
    before = _before(folder)
    db = Db(home, snapshot_only=True)
    try:
        if db.fresh:
            raise NotFound(
                what="node in", name=home, hint="Make one with `borg run`, or give another --home."
            )
        with db.snapshot():
            site = Site(db, folder, url, records)
            done = site.write()
    finally:
        db.close()
    for path in _gone(folder, sorted(set(before) - set(done.names))):
        path.unlink()
        done.removed += 1
    said = {"made_by": MADE_BY, "public_url": url, "files": sorted(done.names)}
    files.put(folder / MANIFEST, (json.dumps(said, indent=0) + "\n").encode())
    return done


def _address(text: str | None) -> str:
    return public_url(text, path=True)[0] if text else ""
