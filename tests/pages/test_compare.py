"""Experiments side by side: what differs is first, and only like is measured against like."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from tests.pages.conftest import Client
from tests.pages.fixtures import SIGMA
from tests.pages.test_routes import check_html


def rows(home: Path, sql: str) -> list[tuple[str, ...]]:
    db = sqlite3.connect(home / "views.sqlite")
    found = db.execute(sql).fetchall()
    db.close()
    return found


def test_the_difference_and_its_noise(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    sql = """SELECT b.cid, e.cid, b.metric - e.metric FROM experiment e JOIN experiment b ON b.cid = e.base
      WHERE e.metric IS NOT NULL LIMIT 20"""
    for base, cid, gain in rows(ask.home, sql):
        value = ask.get(f"/compare.json?a={base}&b={cid}").json()
        first, second = value["sides"]
        assert value["comparable"]
        assert first["difference"] is None
        assert second["difference"] == second["gain"] == gain
        assert abs(second["difference_milli"] - int(gain) * 1000 / (SIGMA * 2**0.5)) <= 1


def test_different_classes_are_not_ranked(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    cids = [row[0] for row in rows(ask.home, "SELECT max(cid) FROM experiment GROUP BY class LIMIT 2")]
    path = f"?a={cids[0]}&c={cids[1]}"
    value = ask.get(f"/compare.json{path}").json()
    assert [side["letter"] for side in value["sides"]] == ["a", "c"]
    assert not value["comparable"]
    assert value["sigma"] is value["sides"][1]["difference"] is None
    assert "cannot be ranked" in ask.get(f"/compare{path}").text


def test_fields_that_differ_come_first(tmp_path: Path) -> None:
    import json
    import random

    from tests.pages.fixtures import Maker

    make = Maker(tmp_path / "home", random.Random(1))
    me = make.rng.randbytes(32)
    make.genesis(me, "m")
    task = make.task(me, "nano", 1)
    recipes = ({"z": 1, "on": True, "same": 5}, {"z": 2, "on": 1, "same": 5, "new": "x"})
    cids = [str(make.experiment(me, 1, task, "CPU", recipe=json.dumps(r))) for r in recipes]
    ask = Client(make.commit())
    value = ask.get(f"/compare.json?a={cids[0]}&b={cids[1]}").json()
    assert [(f["field"], f["differs"]) for f in value["fields"]] == [
        ("z", True), ("on", True), ("new", True), ("same", False),
    ]  # fmt: skip
    assert value["differing"] == 3
    assert value["fields"][2]["values"] == [None, "x"]
    page = check_html(ask.get(f"/compare?a={cids[0]}&b={cids[1]}").text)
    assert sum(tag == "path" and "cur" in str(attrs.get("class")) for tag, attrs in page.tags) == 2


def test_a_record_leads_to_its_comparisons(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    sql = "SELECT cid, base FROM experiment WHERE base IS NOT NULL AND frontier = 0 ORDER BY seq DESC LIMIT 1"
    cid, base = rows(ask.home, sql)[0]
    text = ask.get(f"/record/{cid}").text
    assert f"/compare?a={base}&amp;b={cid}" in text
    best = ask.get(f"/record/{cid}.json").json()["experiment"]["best"]
    if best != base:
        assert f"/compare?a={best}&amp;b={cid}" in text


def test_letters_never_cover_one_another() -> None:
    from itertools import pairwise

    from explorer.svg import LETTER, _apart

    for heights in ([10.0], [190.0] * 4, [10.0, 12.0, 100.0, 194.0], [180.0, 185.0, 190.0, 195.0]):
        got = _apart(heights, 194.0)
        assert all(low - high >= LETTER for high, low in pairwise(got))
        assert got[-1] <= 194.0
    assert _apart([10.0, 50.0], 194.0) == [10.0, 50.0]


def test_other_code_is_said(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    sql = "SELECT min(e.cid) FROM experiment e JOIN task t ON t.cid = e.task GROUP BY t.name ORDER BY t.name"
    one, two = rows(ask.home, sql)
    value = ask.get(f"/compare.json?a={one[0]}&b={two[0]}").json()
    assert value["evaluators"] == 2
    assert value["sides"][0]["evaluator"] != value["sides"][1]["evaluator"]
    assert "name" in [row["field"] for row in value["harness"]]
    text = ask.get(f"/compare?a={one[0]}&b={two[0]}").text
    assert "Different code has measured these" in text
    assert "Different code" not in ask.get(f"/compare?a={one[0]}&b={one[0]}").text


def test_times_are_told_as_ages_with_the_moment_behind_them(client: Callable[[str], Client]) -> None:
    text = client("mesh").get("/records").text
    assert " ago</time>" in text
    assert 'datetime="2025-10-09 ' in text
    assert "epochs ago" in client("hostile").get("/records").text  # where the clock is not known
