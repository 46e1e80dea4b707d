"""The web server: addresses, headers, errors. Read-only: GET and HEAD, nothing else.

Every page function gets its own read-only snapshot in a worker thread; answers are cached by address and version.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from explorer import export, openapi, pages, parquet, render, show
from explorer.db import Db
from explorer.live import TOPICS, Hub
from explorer.pages.body import raw_of
from explorer.pages.chat import ask
from explorer.pages.common import TEXT_MAX
from explorer.png import NoPicture
from explorer.problems import TABLE_ENDINGS, problem, too_often
from explorer.routes import ROUTES
from explorer.routes import Route as PageRoute
from explorer.throttle import (
    FILE_COST,
    PAGE_COST,
    STREAMS_PER_CLIENT,
    TABLE_COST,
    Mirror,
    Throttle,
    client_of,
)
from explorer.values import Page, to_json
from spore_borg.errors import BorgError, IntegrityError, NotAllowed, NotFound, UsageError

BUILDERS = (
    2  # pages built at once: each may read as many rows as its plot has runs, and each thread keeps memory
)
CACHE_ENTRIES = 64
CACHE_BODY_MAX = 1 << 20
GZIP_FROM_BYTES = 500
URL_CHARS_MAX = 8_000  # three texts of TEXT_MAX characters, each of twelve in an address
HOST_RE = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(:[0-9]{1,5})?")
LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))

HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
MEDIA = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
PROBLEM_STATUS: tuple[tuple[type[BorgError], int, str], ...] = (
    (NotFound, 404, "Not found"),
    (UsageError, 400, "This address asks for something that cannot be"),
    (NotAllowed, 403, "Not allowed here"),
    (IntegrityError, 503, "The views cannot be read"),
    (NoPicture, 503, "No PNG here"),
    (parquet.NoParquet, 501, "This form is not installed here"),
)


@dataclass(frozen=True, slots=True)
class Body:
    """An answer ready to be sent, plain and compressed."""

    media: str
    plain: bytes
    packed: bytes | None
    etag: str


def body_of(media: str, plain: bytes) -> Body:
    """Compress and fingerprint an answer."""
    dense = len(plain) < GZIP_FROM_BYTES or media == "image/png"
    packed = None if dense else gzip.compress(plain, 6, mtime=0)
    return Body(media, plain, packed, f'W/"{hashlib.sha256(plain).hexdigest()[:20]}"')


def answer(request: Request, body: Body, cache: str = "no-cache") -> Response:
    """Send a body, or 304 if the viewer has it."""
    headers = {"etag": body.etag, "cache-control": cache, "vary": "accept-encoding"}
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if body.etag in known:
        return Response(status_code=304, headers=headers)
    if body.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        return Response(body.packed, media_type=body.media, headers=headers)
    return Response(body.plain, media_type=body.media, headers=headers)


class Guard:
    """Outermost: method, host, length of the address, and the headers that every answer carries."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, explorer: Explorer) -> None:
        self.app = app
        self.explorer = explorer
        self.hosts = hosts  # None: any, when bound to more than loopback
        self.mirror = explorer.mirror
        self.throttle = Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        refused = self._refuse(Request(scope))
        await (self.app if refused is None else refused)(scope, receive, with_headers)

    def _refuse(self, request: Request) -> Response | None:
        if request.method not in {"GET", "HEAD"}:
            response = problem(
                request, 405, "Read-only", "These pages only answer GET and HEAD. Act with `borg`."
            )
            response.headers["allow"] = "GET, HEAD"
            return response
        if self.hosts is not None and host_name(request.headers.get("host", "")) not in self.hosts:
            detail = (
                "This explorer is for this machine only. Open it as http://127.0.0.1 or http://localhost."
                if self.mirror is None
                else f"This is {self.mirror.url}: ask for it by that name."
            )
            return problem(request, 421, "Wrong host", detail)
        if len(request.scope.get("raw_path") or b"") + len(request.scope["query_string"]) > URL_CHARS_MAX:
            return problem(
                request, 414, "Address too long", f"An address has at most {URL_CHARS_MAX} characters."
            )
        return self._too_many(request) if self.mirror is not None else None

    def _too_many(self, request: Request) -> Response | None:
        """A public mirror's limit: who asks more often than it fills again is told when to come back."""
        assert self.mirror is not None
        peer = request.client.host if request.client is not None else None
        forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
        client = client_of(peer, forwarded, self.mirror.proxies)
        request.scope["explorer.client"] = client
        path = request.url.path
        table = path.endswith(TABLE_ENDINGS)
        cost = TABLE_COST if table else FILE_COST if path.startswith("/static/") else PAGE_COST
        wait_s = self.throttle.wait_s(client, cost, time.monotonic())
        return too_often(request, wait_s) if wait_s else None


def host_name(header: str) -> str:
    """The name in a Host header, without its port."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def origin_of(request: Request) -> str:
    """Where the viewer reaches this server, for addresses that must be whole; empty if it says nothing usable."""
    host = request.headers.get("host", "")
    return f"{request.url.scheme}://{host}" if HOST_RE.fullmatch(host) else ""


@dataclass(slots=True)
class Waiting:
    """Those who wait for the same page."""

    viewers: int = 0
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class Explorer:
    """The pages of one home directory.

    Args:
        mirror: set for a public mirror, which shows nothing of the machine that it runs on.
        loopback: only this machine can ask, so the user's own documents may answer.
    """

    def __init__(self, home: Path, mirror: Mirror | None = None, *, loopback: bool = True) -> None:
        self.home = home
        self.loopback = loopback
        self.mirror = mirror
        self.public = mirror is not None
        self.hub = Hub(home, public=self.public)
        self._cache: OrderedDict[tuple[object, ...], Body] = OrderedDict()
        self._building: dict[tuple[object, ...], Waiting] = {}
        self._builders: anyio.CapacityLimiter | None = None
        self._static = {
            name: body_of(MEDIA.get(Path(name).suffix, "application/octet-stream"), raw)
            for name, raw in render.static_files().items()
        }

    def _build(
        self, make: Callable[[Db], Page], twin: bool, path: str, origin: str, query: str
    ) -> Body | str:
        """Build one page in a snapshot; a text is an address to go to instead."""
        db = Db(self.home, public=self.public)
        try:
            with db.snapshot():
                page = make(db)
            if isinstance(page, pages.RecordsPage) and page.hit and not twin:
                return page.hit
            if twin:
                return body_of("application/json", to_json(page).encode())
            canonical = f"{origin}{path}{'?' * bool(query)}{query}" if self.public else ""
            if isinstance(page, pages.PlotPage):
                if path.endswith(".png"):
                    return body_of("image/png", render.plot_png(page))
                return body_of("image/svg+xml", render.plot_svg(page).encode())
            return body_of("text/html; charset=utf-8", render.html(page, path, origin, canonical).encode())
        finally:
            db.close()

    async def page(self, request: Request, make: Callable[[Db], Page], twin: bool) -> Response:
        """Answer with a page, from the cache while the versions stand."""
        versions = tuple(sorted(self.hub.versions.items()))
        origin = origin_of(request) if self.mirror is None else self.mirror.url
        key = (origin, request.url.path, request.url.query, versions)
        at = (str(request.url.path), origin, request.url.query)
        found: Body | str | None = self._cache.get(key) if versions else None
        if found is None and versions:  # many viewers hear the same news: one builds, the others wait for it
            waiting = self._building.setdefault(key, Waiting())
            waiting.viewers += 1
            try:
                async with waiting.lock:
                    found = self._cache.get(key) or await self._make(key, make, twin, at)
            finally:
                waiting.viewers -= 1
                if not waiting.viewers:
                    self._building.pop(key, None)
        elif found is None:
            found = await self._make(None, make, twin, at)
        else:
            self._cache.move_to_end(key)
        if isinstance(found, str):
            return RedirectResponse(found, 303)
        if self.public:  # a proxy may keep it, and asks each time whether it still holds
            picture = found.media.startswith("image/")
            return answer(request, found, "public, max-age=60" if picture else "public, no-cache")
        return answer(request, found)

    async def _make(
        self, key: tuple[object, ...] | None, make: Callable[[Db], Page], twin: bool, at: tuple[str, str, str]
    ) -> Body | str:
        """Build a page in a thread, and keep it if it has a key."""
        if self._builders is None:
            self._builders = anyio.CapacityLimiter(BUILDERS)
        built = await anyio.to_thread.run_sync(self._build, make, twin, *at, limiter=self._builders)
        if key is not None and isinstance(built, Body) and len(built.plain) <= CACHE_BODY_MAX:
            self._cache[key] = built
            while len(self._cache) > CACHE_ENTRIES:
                self._cache.popitem(last=False)
        return built

    def route(self, given: PageRoute) -> list[Route]:
        """A page and its JSON twin."""
        function = getattr(pages, given.page)
        params = given.query

        def endpoint(twin: bool) -> Callable[[Request], object]:
            async def handle(request: Request) -> Response:
                asked = asked_of(request, params)
                if "class" in asked and function is not pages.records:
                    asked["hardware_class"] = asked.pop("class")
                if "from" in asked:
                    asked["since"], asked["until"] = asked.pop("from"), asked.pop("to")
                places = [request.path_params[key] for key in request.path_params]
                check_places(request)
                return await self.page(request, lambda db: function(db, *places, **asked), twin)

            return handle

        return [Route(given.json, endpoint(True)), Route(given.path, endpoint(False))]

    def table(self, name: str, ext: str) -> Callable[[Request], object]:
        """A whole table as CSV, NDJSON or Parquet, sent while it is read."""

        async def handle(request: Request) -> Response:
            asked = asked_of(request, export.TABLES[name].query)
            pieces = export.stream(self.home, name, ext, asked, public=self.public)
            first = await anyio.to_thread.run_sync(
                next, pieces, b""
            )  # errors while there is a status to give
            headers = {
                "cache-control": "public, max-age=60" if self.public else "no-store",
                "content-disposition": f'attachment; filename="{name}.{ext}"',
            }
            if request.method == "HEAD":
                pieces.close()
                return Response(headers=headers, media_type=export.MEDIA[ext])
            return StreamingResponse(chain((first,), pieces), media_type=export.MEDIA[ext], headers=headers)

        return handle

    async def chat(self, request: Request) -> Response:
        """Ask the user's own documents; never on a mirror or beyond this machine, and not for another site's page."""
        if self.public or not self.loopback:
            raise HTTPException(404)
        question = request.query_params.get("q", "").strip()
        if question and request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise NotAllowed(detail="Another site's page may not ask here. Open /chat and ask there.")
        said: dict[str, object] | None = None
        if question and request.method != "HEAD":
            complete = request.query_params.get("complete") == "1"
            said = await anyio.to_thread.run_sync(
                partial(ask, self.home, question, complete=complete), abandon_on_cancel=True
            )
        twin = request.url.path.endswith(".json")
        at = (str(request.url.path), origin_of(request), request.url.query)
        built = await self._make(None, lambda db: pages.chat(db, question, said), twin, at)
        assert isinstance(built, Body)
        return answer(request, built, "no-store")

    async def openapi(self, request: Request) -> Response:
        """The description of all JSON twins."""
        text = json.dumps(openapi.document(), separators=(",", ":"))
        return answer(request, body_of("application/json", text.encode()))

    async def static(self, request: Request) -> Response:
        """A file of the explorer's own."""
        body = self._static.get(request.path_params["name"])
        if body is None:
            raise HTTPException(404)
        cache = "public, max-age=31536000, immutable" if request.url.query else "public, max-age=3600"
        return answer(request, body, cache)

    async def cbor(self, request: Request) -> Response:
        """The signed bytes of a record."""
        check_places(request)
        cid = request.path_params["cid"]

        def read() -> bytes | None:
            db = Db(self.home)
            try:
                found = raw_of(db, cid)
                return found[0] if found else None
            finally:
                db.close()

        raw = await anyio.to_thread.run_sync(read)
        if raw is None:
            raise NotFound(
                what="signed bytes of", name=cid, hint="This node's log does not hold that record."
            )
        response = answer(request, body_of("application/cbor", raw), "public, max-age=31536000, immutable")
        response.headers["content-disposition"] = f'attachment; filename="{cid}.cbor"'
        return response

    async def events(self, request: Request) -> Response:
        """The stream of news."""
        asked = request.query_params.get("topics")
        topics = frozenset(asked.split(",")) if asked else frozenset(TOPICS)
        if not topics <= set(TOPICS):
            raise UsageError(detail=f"?topics= must be a list of {', '.join(TOPICS)}.")
        if self.hub.full:
            response = problem(
                request, 503, "Too many viewers", "Live news are full; the pages themselves work."
            )
            response.headers["retry-after"] = "30"
            return response
        client = request.scope.get("explorer.client")
        if client is not None and self.hub.of_client(client) >= STREAMS_PER_CLIENT:
            return too_often(request, 30)
        last = request.headers.get("last-event-id")
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type="text/event-stream")
        return StreamingResponse(
            self.hub.stream(topics, last, client), media_type="text/event-stream", headers=headers
        )


PLACES: dict[str, tuple[Callable[[str], bool], str]] = {
    "cid": (show.is_cid, "record"),
    "name": (show.is_node, "node"),
    "signature": (show.is_signature, "failure"),
    "chapter": (show.is_chapter, "chapter"),
    "digest": (show.is_digest, "state"),
}


def asked_of(request: Request, names: tuple[str, ...]) -> dict[str, str | None]:
    """The query parameters that a page knows.

    Raises:
        UsageError: one is longer than any that means something.
    """
    asked = {name: request.query_params.get(name) for name in names}
    for name, value in asked.items():
        if value is not None and len(value) > TEXT_MAX:
            raise UsageError(detail=f"?{name}= has at most {TEXT_MAX} characters.")
    return asked


def check_places(request: Request) -> None:
    """Refuse an id of the wrong form before anything looks it up."""
    for key, value in request.path_params.items():
        good, what = PLACES[key]
        if not good(value):
            raise NotFound(what=what, name=show.plain(value, 80), hint="That is not the form of such an id.")


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BorgError)
    for kind, status, title in PROBLEM_STATUS:
        if isinstance(error, kind):
            return problem(request, status, title, str(error))
    return problem(request, 500, "Error", str(error))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return problem(request, 404, "Not found", "There is no such page. /api lists those that there are.")
    return problem(request, error.status_code, "Error", error.detail)


async def _on_defect(request: Request, error: Exception) -> Response:
    return problem(
        request, 500, "A defect", f"{type(error).__name__}: see the explorer's log. Please report it."
    )


def make_app(home: Path, *, loopback: bool = True, mirror: Mirror | None = None) -> Guard:
    """The ASGI application for one home directory.

    Args:
        home: the node's directory. loopback: only answer requests that name this machine (DNS rebinding).
        mirror: be a public mirror of that name: requests that name it or this machine, limits for every client.
    """
    explorer = Explorer(home, mirror, loopback=loopback)
    names = LOOPBACK if mirror is None else LOOPBACK | {mirror.host}

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(explorer.hub.watch)
            yield
            explorer.hub.close()
            group.cancel_scope.cancel()

    routes = [
        Route("/record/{cid}.cbor", explorer.cbor),
        Route("/openapi.json", explorer.openapi),
        *(
            Route(f"/{name}.{ext}", explorer.table(name, ext))
            for name in export.TABLES
            for ext in export.MEDIA
        ),
        *(one for route in ROUTES for one in explorer.route(route)),
        Route("/chat.json", explorer.chat),
        Route("/chat", explorer.chat),
        Route("/events", explorer.events),
        Route("/static/{name}", explorer.static),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={BorgError: _on_error, HTTPException: _on_http, Exception: _on_defect},
    )
    return Guard(app, names if loopback or mirror is not None else None, explorer)
