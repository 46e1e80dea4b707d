"""The graph of experiments: every line leads from an experiment to its base, on one page and over several."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from explorer import lanes
from tests.pages.conftest import Client

Edge = tuple[str, str]


def edges(rows: list[tuple[str, list[str]]], cells: tuple[lanes.Cell, ...]) -> set[Edge]:
    """The edges that a reader of the drawing sees: follow each line down to the dot that it enters."""
    out: set[Edge] = set()
    carried: dict[int, set[str]] = {}
    for (cid, _), cell in zip(rows, cells, strict=True):
        if cell.above:
            out |= {(child, cid) for child in carried.pop(cell.lane)}
        else:
            assert cell.lane not in carried, "a dot without a line from above sits on a line"
        assert set(carried) == set(cell.through), "a line ends in the air, or begins there"
        for lane in cell.down:
            carried.setdefault(lane, set()).add(cid)
    return out


@pytest.mark.parametrize("seed", range(40))
def test_the_lines_are_the_edges(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    rows: list[tuple[str, list[str]]] = []
    for number in range(60):
        older = [str(n) for n in range(max(0, number - 4), number)]
        rows.append((str(number), rng.sample(older, min(len(older), rng.choice((0, 1, 1, 1, 2))))))
    rows.reverse()
    cells = lanes.lanes(rows)
    if lanes.width(cells) < lanes.LANES_MAX:
        assert edges(rows, cells) == {(cid, base) for cid, bases in rows for base in bases}


def test_many_children_share_one_line() -> None:
    rows = [(str(n), ["0"]) for n in range(99, 0, -1)] + [("0", [])]
    cells = lanes.lanes(rows)
    assert lanes.width(cells) == 2
    assert edges(rows, cells) == {(cid, "0") for cid, _ in rows[:-1]}


def test_more_lines_than_columns_do_not_grow_the_page() -> None:
    rows = [(str(n), [f"base{n}"]) for n in range(50)]
    assert lanes.width(lanes.lanes(rows)) == lanes.LANES_MAX


def test_all_lanes_hold_every_experiment_once(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    seen: list[str] = []
    path: str | None = "/dag.json?view=lanes"
    while path:
        value = ask.get(path).json()
        cids = {row["cid"] for row in value["rows"]}
        above = {row["base"] for row in value["rows"] if row["base"] in cids}
        for row in value["rows"]:
            if row["cid"] in above or row["cid"] in awaited(ask.home, value["rows"][0]["seq"]):
                assert row["cell"]["above"]
        seen += [row["cid"] for row in value["rows"]]
        path = f"/dag.json?view=lanes&before={value['before']}" if value["before"] else None
    db = sqlite3.connect(ask.home / "views.sqlite")
    want = [row[0] for row in db.execute("SELECT cid FROM experiment ORDER BY seq DESC")]
    db.close()
    assert seen == want


def awaited(home: Path, newest: int) -> set[str]:
    """Bases of experiments newer than ``newest``."""
    db = sqlite3.connect(home / "views.sqlite")
    found = {row[0] for row in db.execute("SELECT base FROM experiment WHERE seq > ?", (newest,)) if row[0]}
    db.close()
    return found


def test_a_lineage_reaches_four_steps_each_way(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    db = sqlite3.connect(ask.home / "views.sqlite")
    bases = dict(db.execute("SELECT cid, base FROM experiment").fetchall())
    middle = db.execute("SELECT cid FROM frontier WHERE step = 5 LIMIT 1").fetchone()[0]
    db.close()
    rows = ask.get(f"/dag.json?view=lineage&cid={middle}").json()["rows"]
    hops = {row["cid"]: row["hops"] for row in rows}
    assert min(hops.values()) == -4
    assert max(hops.values()) == 4
    assert hops[middle] == 0
    for cid, hop in hops.items():
        if hop > 0:
            assert hops[bases[cid]] == hop - 1
        elif hop < 0:
            assert any(bases[child] == cid for child, other in hops.items() if other == hop + 1)
    shown = sum(bases[cid] == middle for cid in hops)
    children = sum(base == middle for base in bases.values())
    folded = next(row["folded"] for row in rows if row["cid"] == middle)
    assert folded == (min(children, 100) - shown if children < 100 else 100)


def test_the_spine_is_the_frontier_with_its_ancestors(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    value = ask.get("/dag.json?view=spine").json()
    steps = ask.get("/overview.json").json()["plot"]["steps"]
    got = [row["cid"] for row in value["rows"]]
    assert {step["cid"] for step in steps} <= set(got)
    assert value["before"] is None
    assert got[0] == steps[-1]["cid"]


def test_only_experiments_have_a_lineage(client: Callable[[str], Client]) -> None:
    ask = client("one")
    cid = ask.get("/records.json?kind=task").json()["rows"][0]["cid"]
    answer = ask.get(f"/dag.json?cid={cid}")
    assert answer.status_code == 404
    assert "Only experiments" in answer.json()["detail"]
