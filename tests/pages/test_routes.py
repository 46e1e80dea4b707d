"""Every route in every state: a real page with one heading, a JSON twin, nothing from elsewhere, nothing unescaped."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.pages.conftest import Client
from tests.pages.fixtures import HOSTILE, TICKET

ROUTES = (
    "/", "/?from=20&to=60", "/?x=time&from=3", "/?x=cost&to=5",
    "/?x=time", "/?x=cost", "/frontier", "/records", "/records?kind=all", "/records?kind=seal",
    "/records?before=2", "/records?q=beta2", "/records?verdict=refuted&outcome=kept", "/verify",
    "/reputation", "/tasks", "/about", "/api", "/dag", "/dag?view=lanes&before=300", "/dag?view=spine",
    "/dag?view=lineage", "/compare", "/mesh", "/failures", "/failures?sort=most", "/failures?q=finite+loss",
    "/state", "/state?before=100", "/spec", "/spec/10-records", "/spec/20-views", "/licences",
)  # fmt: skip
VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """Collects what the checks need, and that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def check_html(text: str) -> Page:
    """What holds for every page."""
    page = Page(text)
    assert page.open == []
    assert sum(tag == "h1" for tag, _ in page.tags) == 1
    assert len(page.ids) == len(set(page.ids))
    for tag, attrs in page.tags:
        assert "style" not in attrs
        assert not any(name.startswith("on") for name in attrs)
        for name in ("href", "src", "action"):
            value = attrs.get(name)
            assert value is None or value.startswith(("/", "#")), (tag, value)
            assert value is None or not value.startswith("//")
        if tag == "script":
            assert attrs.get("src", "").startswith("/static/")
        if tag in {"input", "select"} and attrs.get("type") != "hidden":
            assert "name" in attrs
        if tag == "svg" and attrs.get("aria-hidden") != "true":
            assert attrs.get("role") in {"img", "group"}  # a group where there are links in it
            assert attrs.get("aria-labelledby")
        if attrs.get("aria-labelledby"):
            assert set(str(attrs["aria-labelledby"]).split()) <= set(page.ids)
    return page


def twin(path: str) -> str:
    """The address of a page's JSON."""
    name, _, query = path.partition("?")
    return ("/overview.json" if name == "/" else f"{name}.json") + (f"?{query}" if query else "")


def ids(home: Path) -> list[str]:
    """Addresses of record and node pages: every kind of record, and every node."""
    db = sqlite3.connect(home / "views.sqlite")
    try:
        cids = [row[0] for row in db.execute("SELECT max(cid) FROM record GROUP BY kind")]
        cids += [
            row[0]
            for row in db.execute(
                "SELECT max(cid) FROM experiment GROUP BY stage, verdict, outcome, frontier"
            )
        ]
        if home.name == "hostile":
            cids = [row[0] for row in db.execute("SELECT cid FROM record")]
        states = [
            row[0]
            for row in db.execute("SELECT value FROM meta WHERE key='state_digest'")
            if len(row[0]) == 64
        ]
        nodes = [row[0] for row in db.execute("SELECT name FROM node LIMIT 3")]
        failed = [row[0] for row in db.execute("SELECT signature FROM failure LIMIT 12")]
        experiments = [row[0] for row in db.execute("SELECT cid FROM experiment ORDER BY seq DESC LIMIT 4")]
    finally:
        db.close()
    sides = "&".join(f"{letter}={cid}" for letter, cid in zip("abcd", experiments, strict=False))
    return (
        [f"/failure/{name}" for name in failed]
        + [f"/state/{digest}" for digest in states]
        + [f"/compare?{sides}"]
        + [f"/record/{cid}" for cid in cids]
        + [f"/node/{name}" for name in nodes]
    )


@pytest.mark.parametrize("state", ["empty", "one", "hostile", "mesh", "big"])
def test_every_page_and_its_twin(state: str, client: Callable[[str], Client]) -> None:
    ask = client(state)
    paths = [*ROUTES, *ids(ask.home)]
    if state == "empty":
        paths = list(ROUTES)
    for path in paths:
        answer = ask.get(path)
        assert answer.status_code == 200, (path, answer.text[:300])
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        check_html(answer.text)
        data = ask.get(twin(path))
        assert data.status_code == 200, path
        assert data.headers["content-type"] == "application/json"
        value = json.loads(data.text)
        assert value["frame"]["records"] >= 0
        assert value["page"]


def test_hostile_text_stays_text(client: Callable[[str], Client]) -> None:
    ask = client("hostile")
    seen = ""
    for path in [*ROUTES, *ids(ask.home)]:
        text = ask.get(path).text
        page = check_html(text)
        seen += " ".join(page.words)
        assert not any(tag == "img" for tag, _ in page.tags)
        assert "\u202e" not in text
        assert "\u200b" not in text
        assert "\x07" not in text
        for tag, attrs in page.tags:
            if tag == "a":
                assert "evil" not in (attrs.get("href") or "")
    for text in (HOSTILE[0], HOSTILE[2], HOSTILE[6]):
        assert text in seen  # shown, as plain words


def test_ids_are_checked_before_use(client: Callable[[str], Client]) -> None:
    ask = client("one")
    for path in (
        "/record/..%2f..%2fetc",
        "/record/b",
        "/record/%00",
        "/node/x",
        "/record/" + "b" + "a" * 58,
        "/nothing",
    ):
        answer = ask.get(path)
        assert answer.status_code == 404, path
        check_html(answer.text)
        problem = ask.get(path, accept="application/json")
        assert problem.status_code == 404
        assert problem.headers["content-type"] == "application/problem+json"
        assert problem.json()["status"] == 404


@pytest.mark.parametrize(
    "path",
    ["/?x=up", "/?from=x", "/?to=-1",
     "/records?before=-1", "/records?before=9e9", "/records?verdict=maybe", "/records?kind=x",
     "/compare?a=x", "/compare?b=b" + "a" * 58,
     "/dag?view=x", "/dag?cid=x", "/dag?before=x", "/dag?view=spine&task=x", "/dag?view=spine&class=x",
     "/dag?cid=b" + "a" * 58, "/verify?after=1", "/mesh?after=1", "/plot.svg?x=up", "/plot.svg?class=x",
     "/failures?sort=x", "/failures?before=x", "/failures?sort=most&after=x", "/failure/000", "/failure/ffffffffffff",
     "/spec/README", "/state?before=x", "/state/x", f"/state/{'0' * 64}", "/spec/99-nothing", "/spec/..%2fREADME",
     "/reputation?after=x.y", "/reputation?node=x",
     "/records?author=<b>", "/events?topics=all",
     "/node/" + "a" * 52 + "?before=z"],
)  # fmt: skip
def test_impossible_requests_are_refused(path: str, client: Callable[[str], Client]) -> None:
    assert client("one").get(path).status_code in {400, 404}


@pytest.mark.parametrize(
    "words", ['"', "AND", "a OR", "NEAR(", "*", "title:", "-", "^x", "a" * 5000, "\x00", "(" * 50, "ünï"]
)
def test_any_words_can_be_searched(words: str, client: Callable[[str], Client]) -> None:
    answer = client("hostile").get(
        f"/records?q={words[:200]}" if words.isascii() and words.isprintable() else "/records?q=%00%C3%BC"
    )
    assert answer.status_code == 200


def test_pages_go_on_by_key_to_the_end(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    seen: list[str] = []
    path: str | None = "/records.json?kind=all"
    while path:
        value = ask.get(path).json()
        seen += [row["cid"] for row in value["rows"]]
        path = f"/records.json?kind=all&before={value['before']}" if value["before"] else None
    assert len(seen) == len(set(seen)) == value["frame"]["records"]
    waiting, path = 0, "/verify.json"
    while path:
        value = ask.get(path).json()
        waiting += len(value["waiting"])
        path = f"/verify.json?after={value['after']}" if value["after"] else None
    assert waiting == value["frame"]["waiting"]


def test_filters_together_find_what_a_scan_finds(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    db = sqlite3.connect(ask.home / "views.sqlite")
    want = {
        row[0]
        for row in db.execute("SELECT cid FROM experiment WHERE verdict='refuted' AND outcome='discarded'")
    }
    db.close()
    got: set[str] = set()
    before = ""
    while True:
        value = ask.get(f"/records.json?verdict=refuted&outcome=discarded{before}").json()
        got |= {row["cid"] for row in value["rows"]}
        if not value["before"]:
            break
        before = f"&before={value['before']}"
    assert got == want
    assert want


def test_a_pasted_id_leads_to_its_page(client: Callable[[str], Client]) -> None:
    ask = client("one")
    cid = ask.get("/overview.json").json()["best_cid"]
    answer = ask.get(f"/records?q={cid}")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/record/{cid}"


def test_the_signed_bytes_are_those_of_the_id(client: Callable[[str], Client]) -> None:
    from spore_borg.records.cid import Cid

    ask = client("mesh")
    cid = ask.get("/overview.json").json()["best_cid"]
    answer = ask.get(f"/record/{cid}.cbor")
    assert answer.headers["content-type"] == "application/cbor"
    assert str(Cid.of(answer.content)) == cid


def test_solo_says_so_and_a_mesh_does_not(client: Callable[[str], Client]) -> None:
    assert "this node is alone" in client("one").get("/").text
    assert "this node is alone" not in client("mesh").get("/").text


def test_the_ticket_is_never_shown(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    assert "127.0.0.1:8469" in ask.get("/about").text
    for path in ROUTES:
        assert TICKET not in ask.get(path).text
        assert TICKET not in ask.get(twin(path)).text


def test_no_home_yet_is_a_page_not_an_error(tmp_path: Path) -> None:
    answer = Client(tmp_path).get("/")
    assert answer.status_code == 200
    assert "borg run" in answer.text
    assert not list(tmp_path.iterdir())


def test_damaged_views_give_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "views.sqlite").write_bytes(b"not a database" * 1000)
    answer = Client(tmp_path).get("/overview.json")
    assert answer.status_code == 503
    assert "borg rebuild" in answer.json()["detail"]
    (tmp_path / "views.sqlite").unlink()
    sqlite3.connect(tmp_path / "views.sqlite").executescript(
        "CREATE TABLE meta(key,value)"
    ).connection.close()
    assert Client(tmp_path).get("/").status_code == 503


def test_outcome_and_verdict_are_two_columns(client: Callable[[str], Client]) -> None:
    heads = re.findall(r"<th[^>]*>([^<]+)</th>", client("mesh").get("/").text)
    assert "Outcome" in heads
    assert "Verdict" in heads


def test_the_frontier_plot_agrees_with_its_table(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    for axis in ("experiment", "time", "cost"):
        plot = ask.get(f"/overview.json?x={axis}").json()["plot"]
        metrics = [step["metric"] for step in plot["steps"]]
        assert metrics == sorted(metrics, reverse=True)
        places = [step["x"] for step in plot["steps"]]
        assert places == sorted(places)
        assert plot["x_low"] <= places[0] <= places[-1] <= plot["x_high"]
        assert plot["y_low"] < min(metrics) <= max(metrics) < plot["y_high"]
        for row, column, length in plot["dots"]:
            assert 0 <= row < plot["rows"]
            assert column >= 0
            assert column + length <= plot["columns"]


def test_the_command_that_fetches_a_row_is_safe_to_paste(client: Callable[[str], Client]) -> None:
    rows = client("mesh").get("/frontier.json").json()["rows"]
    assert "borg frontier --task nano --class CPU_X86_64 --fetch DIR" in [row["fetch"] for row in rows]
    for row in client("hostile").get("/frontier.json").json()["rows"]:
        assert re.fullmatch(r"borg frontier --task b[a-z2-7]{58} --fetch DIR", row["fetch"])


def test_sentences_count_in_words() -> None:
    from explorer.show import sentence

    assert sentence("2 drawn node(s) recomputed parts of it") == "2 drawn nodes recomputed parts of it"
    assert sentence("0.0075 bpb over 1 run(s)") == "0.0075 bpb over 1 run"
    assert (
        sentence("32 blocks evaluated and 1 segments replayed")
        == "32 blocks evaluated and 1 segment replayed"
    )
    assert sentence("31 segments, 0.1 segments") == "31 segments, 0.1 segments"
    assert sentence("f(s) of <b>") == "f(s) of <b>"


def test_a_part_of_the_plot_agrees_with_the_whole(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    for axis in ("experiment", "time", "cost"):
        whole = ask.get(f"/overview.json?x={axis}").json()
        plot = whole["plot"]
        low, high = (plot["x_low"] * (3 - k) // 3 + plot["x_high"] * k // 3 for k in (1, 2))
        part = ask.get(f"/overview.json?x={axis}&from={low}&to={high}").json()
        assert (part["plot"]["x_low"], part["plot"]["x_high"]) == (low, high)
        assert part["plot"]["zoomed"] and not plot["zoomed"]
        assert (part["best"], part["change"]) == (whole["best"], whole["change"])
        inside = [s["cid"] for s in plot["steps"] if low <= s["x"] <= high]
        shown = [s["cid"] for s in part["plot"]["steps"]]
        assert shown[-len(inside) :] == inside
        before = [s for s in plot["steps"] if s["x"] < low]
        assert shown[: len(shown) - len(inside)] == [s["cid"] for s in before[-1:]]
        assert 0 < part["plot"]["runs"] < plot["runs"]
    nothing = ask.get(f"/overview.json?from={10**15}&to={10**16}").json()
    assert nothing["plot"]["runs"] == 0
    assert ask.get(f"/?from={10**15}&to={10**16}").status_code == 200
