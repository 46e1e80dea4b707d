"""Whole tables as Parquet: the same rows as NDJSON, with true types, in bounded memory; and no scans behind it."""

from __future__ import annotations

import dataclasses
import io
import json
import sqlite3
import sys
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from explorer import export, parquet
from explorer.export_queries import EXPORT_QUERIES
from spore_borg.records.cid import Cid
from tests.pages.conftest import Client


def flat(row: dict[str, Any], want: list[str], prefix: str = "") -> dict[str, Any]:
    """One NDJSON row as Parquet has it."""
    out: dict[str, Any] = {}
    for name, value in row.items():
        inside = prefix + name not in want
        out |= flat(value, want, f"{prefix}{name}_") if inside else {prefix + name: value}
    return out


@pytest.mark.parametrize("state", ["empty", "one", "hostile", "mesh"])
@pytest.mark.parametrize("name", export.TABLES)
def test_it_holds_what_ndjson_holds(state: str, name: str, client: Callable[[str], Client]) -> None:
    ask = client(state)
    answer = ask.get(f"/{name}.parquet")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == parquet.MEDIA
    table = pyarrow.parquet.read_table(io.BytesIO(answer.content))
    want = [json.loads(line) for line in ask.get(f"/{name}.ndjson").text.splitlines()]
    kinds = {column: kind for column, kind, _ in parquet.columns(export.TABLES[name].row)}
    for got, row in zip(table.to_pylist(), want, strict=True):
        for key, value in got.items():
            if (
                kinds[key] == "json"
                and value is not None
                and not isinstance(flat(row, list(kinds))[key], str)
            ):
                got[key] = json.loads(value)
        assert got == flat(row, list(kinds))


def test_metrics_are_integers(client: Callable[[str], Client]) -> None:
    raw = client("mesh").get("/experiments.parquet").content
    table = pyarrow.parquet.read_table(io.BytesIO(raw))
    types = {field.name: field.type for field in table.schema}
    assert {types[name] for name in ("metric", "gain", "seq", "flops", "epoch")} == {pyarrow.int64()}
    assert types["settled"] == pyarrow.bool_()
    assert pyarrow.float64() not in types.values()
    assert b"nano-units" in table.schema.metadata[b"units"]


def test_memory_holds_one_row_group(homes: Callable[[str], Path]) -> None:
    parts = export.stream(homes("big"), "records", "parquet", {"kind": "all"})
    next(parts)
    tracemalloc.start()
    before = pyarrow.total_allocated_bytes()
    try:
        sizes, arrow = [], 0
        for part in islice(parts, 3):
            sizes.append(len(part))
            arrow = max(arrow, pyarrow.total_allocated_bytes() - before)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        parts.close()
    print(
        f"{sum(sizes):,} bytes in {len(sizes)} pieces; at the peak {peak:,} bytes of Python, {arrow:,} of Arrow"
    )
    assert min(sizes) > parquet.GROUP_ROWS  # a whole group each: several bytes a row
    assert peak < 48 << 20
    assert arrow < 16 << 20


def test_without_the_library_it_says_what_to_install(
    client: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = client("one").get("/records.parquet")
    assert answer.status_code == 501
    assert answer.headers["content-type"] == "application/problem+json"
    assert parquet.INSTALL in answer.json()["detail"]


def test_the_views_columns_all_come_along(homes: Callable[[str], Path]) -> None:
    db = sqlite3.connect(homes("one") / "views.sqlite")
    for table, name in (("experiment", "experiments"), ("frontier", "steps"), ("round", "rounds")):
        have = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        want = {f.name for f in dataclasses.fields(export.TABLES[name].row)} | {"class"}
        assert have <= want, have - want
    db.close()


def test_no_statement_scans(homes: Callable[[str], Path]) -> None:
    db = sqlite3.connect(homes("one") / "views.sqlite")
    params = {"before": 9, "limit": 5, "task": "", "class": "", "step": -1}
    for name, sql in EXPORT_QUERIES.items():
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", params)]
        assert not [line for line in plan if line.startswith("SCAN") or "TEMP B-TREE" in line], (name, plan)
    db.close()


def test_a_cid_reads_as_one(client: Callable[[str], Client]) -> None:
    table = pyarrow.parquet.read_table(io.BytesIO(client("one").get("/experiments.parquet").content))
    assert all(Cid.parse(cid) for cid in table.column("cid").to_pylist())
