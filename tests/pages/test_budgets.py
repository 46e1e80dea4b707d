"""What a page may cost at 100,000 records: SQLite VM steps and compressed bytes, which no machine load can change."""

from __future__ import annotations

import gzip
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from explorer import pages, render
from explorer.db import Db, schema_sql
from explorer.pages import plot
from explorer.pages.spec import chapters
from explorer.queries import ALLOWED, QUERIES
from explorer.values import Page, to_json

STEP = 10  # VM steps between two counts


def cost(home: Path, make: Callable[[Db], Page]) -> tuple[int, float, float]:
    """VM steps, KiB of compressed HTML, KiB of compressed JSON."""
    db = Db(home)
    count = 0

    def tick() -> int:
        nonlocal count
        count += STEP
        return 0

    plot._recent.kept.clear()  # cold
    db.connection.set_progress_handler(tick, STEP)
    try:
        page = make(db)
    finally:
        db.close()
    text = render.plot_svg(page) if isinstance(page, pages.PlotPage) else render.html(page, "/")
    html = gzip.compress(text.encode(), 6)
    return count, len(html) / 1024, len(gzip.compress(to_json(page).encode(), 6)) / 1024


def deepest(home: Path) -> str:
    """The record with the longest lineage."""
    db = Db(home)
    row = db.connection.execute("SELECT cid FROM experiment ORDER BY depth DESC LIMIT 1").fetchone()
    db.close()
    return str(row[0])


def longest() -> str:
    """The chapter with the most text."""
    found = chapters()
    return max(found, key=lambda name: len(found[name][1]))


def first_run(db: Db) -> str:
    """An experiment on which thousands build."""
    return str(db.connection.execute("SELECT cid FROM frontier ORDER BY step LIMIT 1").fetchone()[0])


def some(db: Db) -> list[str]:
    """Four experiments."""
    return [str(row[0]) for row in db.connection.execute("SELECT cid FROM experiment LIMIT 4")]


BUDGETS: dict[str, tuple[Callable[[Db], Page], int, float]] = {
    "overview": (pages.overview, 600_000, 30),
    "overview by cost": (lambda db: pages.overview(db, x="cost"), 600_000, 30),
    "records, newest": (pages.records, 5_000, 10),
    "records, all kinds": (lambda db: pages.records(db, kind="all"), 5_000, 10),
    "records, deep": (lambda db: pages.records(db, kind="all", before="500"), 5_000, 10),
    "records of a kind": (lambda db: pages.records(db, kind="seal", before="60000"), 5_000, 10),
    "records, verdict": (lambda db: pages.records(db, verdict="refuted"), 5_000, 10),
    "records, three filters": (
        lambda db: pages.records(db, verdict="refuted", outcome="kept", task="nano"),
        60_000,
        10,
    ),
    "search": (lambda db: pages.records(db, q="beta2"), 100_000, 10),
    "search, two words": (lambda db: pages.records(db, q="muon matrices"), 100_000, 10),
    "search, nothing": (lambda db: pages.records(db, q="zzzz qqqq"), 100_000, 10),
    "dag, lanes": (pages.dag, 60_000, 15),
    "dag, lanes, deep": (lambda db: pages.dag(db, before="60000"), 60_000, 15),
    "dag, spine": (lambda db: pages.dag(db, view="spine"), 60_000, 15),
    "dag, lineage of the best": (lambda db: pages.dag(db, view="lineage"), 60_000, 15),
    "dag, lineage of a first run": (lambda db: pages.dag(db, cid=first_run(db)), 60_000, 15),
    "compare": (lambda db: pages.compare(db, **dict(zip("abcd", some(db), strict=True))), 5_000, 10),
    "plot": (pages.picture, 600_000, 30),
    "frontier": (pages.frontier, 5_000, 10),
    "verify": (pages.verify, 20_000, 12),
    "reputation": (pages.reputation, 50_000, 10),
    "mesh": (pages.mesh, 20_000, 12),
    "failures": (pages.failures, 5_000, 10),
    "failures, most runs": (lambda db: pages.failures(db, sort="most"), 5_000, 10),
    "failures, search": (lambda db: pages.failures(db, q="loss fini"), 20_000, 10),
    "failure": (lambda db: pages.failure(db, pages.failures(db).rows[0].signature), 20_000, 10),
    "node": (lambda db: pages.node(db, db.all("leaders_first", limit=1)[0]["name"]), 50_000, 12),
    "tasks": (pages.tasks, 5_000, 10),
    "state": (pages.state, 20_000, 15),
    "absorbed model": (lambda db: pages.record(db, pages.state(db).members[0].cid), 50_000, 12),
    "spec": (pages.spec, 5_000, 10),
    "longest chapter": (lambda db: pages.chapter(db, longest()), 5_000, 20),
    "licences": (pages.licences, 5_000, 10),
    "about": (pages.about, 5_000, 10),
    "api": (pages.api, 5_000, 10),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_page_budgets(name: str, homes: Callable[[str], Path]) -> None:
    make, steps_max, kib_max = BUDGETS[name]
    steps, html, json_ = cost(homes("big"), make)
    print(f"{name}: {steps} steps, {html:.1f} KiB HTML, {json_:.1f} KiB JSON")
    assert steps <= steps_max
    assert html <= kib_max
    assert json_ <= kib_max


def test_a_record_with_260_ancestors(homes: Callable[[str], Path], tmp_path: Path) -> None:
    import random

    from tests.pages.fixtures import Maker

    make = Maker(tmp_path / "deep", random.Random(9))
    me = make.rng.randbytes(32)
    make.genesis(me, "deep")
    task = make.task(me, "nano", 10**9)
    base = None
    for depth in range(300):
        base = str(
            make.experiment(me, depth, task, "CPU_X86_64", base=base, depth=depth, title=f"step {depth}")
        )
    home = make.commit()
    steps, html, json_ = cost(home, lambda db: pages.record(db, str(base)))
    print(f"record: {steps} steps, {html:.1f} KiB HTML, {json_:.1f} KiB JSON")
    assert steps <= 50_000
    assert html <= 20
    assert json_ <= 30  # mostly 260 ids, which do not compress
    cid = deepest(homes("big"))
    steps, html, _ = cost(homes("big"), lambda db: pages.record(db, cid))
    assert steps <= 50_000
    assert html <= 20


def test_the_first_view_fits(homes: Callable[[str], Path]) -> None:
    sizes = {name: len(gzip.compress(raw, 6)) / 1024 for name, raw in render.static_files().items()}
    assert sizes["explorer.css"] <= 6
    assert sizes["explorer.js"] <= 6
    _, html, _ = cost(homes("big"), pages.overview)
    assert html + sizes["explorer.css"] + sizes["explorer.js"] <= 45


def test_no_query_scans_without_a_reason() -> None:
    db = sqlite3.connect(":memory:")
    db.executescript(schema_sql())
    for name, sql in QUERIES.items():
        params = dict.fromkeys(re.findall(r":([a-z_]+)", sql))
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", params)]
        bad = [
            line
            for line in plan
            if (line.startswith("SCAN") and "CONSTANT" not in line)
            or "TEMP B-TREE" in line
            or "AUTOMATIC" in line
        ]
        assert not bad or name in ALLOWED, (name, plan)
        assert not any("TEMP B-TREE" in line or "AUTOMATIC" in line for line in bad), (name, plan)
    assert set(ALLOWED) <= set(QUERIES)
    db.close()


def test_every_sql_statement_is_a_named_query() -> None:
    folder = Path(render.__file__).parent
    for path in folder.rglob("*.py"):
        if path.name not in {
            "queries.py",
            "export_queries.py",
            "trackio_store.py",
        }:  # the latter writes files of another program
            assert not re.search(r"\bSELECT\b.+\bFROM (?!sqlite_master)", path.read_text(encoding="utf-8")), (
                path
            )
