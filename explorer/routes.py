"""Every address of the explorer, once: the server serves this list, ``/api`` and ``/openapi.json`` describe it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One page, its JSON twin, and whether its table also comes as CSV and NDJSON."""

    path: str
    json: str
    page: str  # name of the function in explorer.pages
    query: tuple[str, ...]
    what: str
    table: bool


def _route(path: str, page: str, query: str, what: str, *, table: bool = False) -> Route:
    twin = "/overview.json" if path == "/" else f"{path.removesuffix('.svg').removesuffix('.png')}.json"
    return Route(path=path, json=twin, page=page, query=tuple(query.split()), what=what, table=table)


ROUTES: tuple[Route, ...] = (
    _route("/", "overview", "task class x from to", "Frontier plot, cards, newest records."),
    _route("/frontier", "frontier", "", "The best accepted result per task and class.", table=True),
    _route(
        "/records",
        "records",
        "kind author task class outcome verdict q before",
        "Records, newest first; 50 a page.",
        table=True,
    ),
    _route("/record/{cid}", "record", "", "One record; signed bytes at /record/{cid}.cbor."),
    _route(
        "/dag",
        "dag",
        "view cid task class before",
        "What builds on what: view=lanes, spine or lineage (around cid); 100 a page.",
        table=True,
    ),
    _route("/compare", "compare", "a b c d", "Two to four experiments side by side; the others against a."),
    _route("/plot.svg", "picture", "task class x from to", "The frontier plot alone, as a picture."),
    _route("/plot.png", "picture", "task class x from to", "The same picture as PNG, 1,200 × 630."),
    _route("/verify", "verify", "after", "What waits for evidence, runs, was judged.", table=True),
    _route("/reputation", "reputation", "node before after", "Leaderboard and ledger.", table=True),
    _route(
        "/failures",
        "failures",
        "q sort before after",
        "Signatures of crashed runs, and fixes.",
        table=True,
    ),
    _route("/state", "state", "before", "Absorbed models: those in the state, and those apart.", table=True),
    _route("/state/{digest}", "state", "before", "The state with this digest, while it is the present one."),
    _route("/failure/{signature}", "failure", "before", "One failure signature with its runs."),
    _route("/mesh", "mesh", "after", "Peers, nodes and their lag, rounds.", table=True),
    _route("/node/{name}", "node", "before", "One node."),
    _route("/tasks", "tasks", "", "Definitions of the tasks.", table=True),
    _route("/spec", "spec", "", "The chapters of the specification."),
    _route("/spec/{chapter}", "chapter", "", "One chapter."),
    _route("/licences", "licences", "", "The licence and the notices."),
    _route("/about", "about", "", "Version and licences."),
    _route("/api", "api", "", "This list."),
)
