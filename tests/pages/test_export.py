"""Whole tables as CSV and NDJSON: every row once, in bounded memory; and the description of all addresses."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from explorer import export, openapi
from tests.pages.conftest import Client
from tests.pages.test_routes import ROUTES, ids, twin


def rows_of(ask: Client, path: str) -> list[Any]:
    name, _, query = path.partition("?")
    answer = ask.get(f"{name}.ndjson" + (f"?{query}" if query else ""))
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("state", ["empty", "one", "hostile", "mesh"])
@pytest.mark.parametrize("name", export.TABLES)
def test_both_forms_hold_the_same_rows(state: str, name: str, client: Callable[[str], Client]) -> None:
    ask = client(state)
    answer = ask.get(f"/{name}.csv")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}.csv"'
    head, *lines = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert head == export.columns(export.TABLES[name].row)
    assert all(len(line) == len(head) for line in lines)
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for line in lines for cell in line)
    assert len(lines) == len(rows_of(ask, f"/{name}"))
    assert ask.get(f"/{name}.csv", "HEAD").text == ""


def test_every_record_once(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    db = sqlite3.connect(ask.home / "views.sqlite")
    want = {
        path: [row[0] for row in db.execute(f"SELECT cid FROM {sql} ORDER BY seq DESC")]
        for path, sql in (
            ("/records?kind=all", "record"),
            ("/records", "experiment"),
            (
                "/records?verdict=refuted&outcome=discarded",
                "experiment WHERE verdict='refuted' AND outcome='discarded'",
            ),
            ("/dag", "experiment"),
        )
    }
    entries = [row[0] for row in db.execute("SELECT id FROM ledger ORDER BY id DESC")]
    waiting = {row[0] for row in db.execute("SELECT claim FROM queue")}
    db.close()
    for path, cids in want.items():
        assert [row["cid"] for row in rows_of(ask, path)] == cids
    assert [row["id"] for row in rows_of(ask, "/ledger")] == entries
    assert {row["claim"] for row in rows_of(ask, "/verify")} == waiting
    assert len(rows_of(ask, "/mesh")) == len(rows_of(ask, "/reputation")) == 12


def test_impossible_exports_are_refused_with_a_status(client: Callable[[str], Client]) -> None:
    for path in ("/records.csv?verdict=x", "/ledger.ndjson?node=x", "/records.csv?author=x"):
        assert client("one").get(path).status_code == 400


def test_memory_does_not_grow_with_the_table(homes: Callable[[str], Path]) -> None:
    pieces = export.stream(homes("big"), "records", "ndjson", {"kind": "all"})
    next(pieces)
    tracemalloc.start()
    try:
        sizes = [len(next(pieces)) for _ in range(20)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pieces.close()
    print(f"{sum(sizes):,} bytes in {len(sizes)} pieces, {peak:,} bytes at the peak")
    assert peak < 8 << 20
    assert sum(sizes) > 20 * 100_000


def fits(value: Any, form: dict[str, Any], named: dict[str, Any], at: str) -> None:
    """Whether a value has the form: the part of JSON Schema that the description uses."""
    if "$ref" in form:
        return fits(value, named[form["$ref"].removeprefix("#/components/schemas/")], named, at)
    if "anyOf" in form:
        for one in form["anyOf"]:
            try:
                return fits(value, one, named, at)
            except AssertionError:
                continue
        raise AssertionError(f"{at}: {value!r} has none of the forms {form['anyOf']}")
    if "const" in form:
        assert value == form["const"], at
    kinds: dict[str, Any] = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list,
                             "object": dict, "null": type(None)}  # fmt: skip
    if "type" in form:
        assert isinstance(value, kinds[form["type"]]), (at, value, form)
        assert not (form["type"] in {"integer", "number"} and isinstance(value, bool)), (at, value)
    if "properties" in form:
        assert set(value) == set(form["properties"]) == set(form["required"]), at
        for key, inside in form["properties"].items():
            fits(value[key], inside, named, f"{at}.{key}")
    elif "additionalProperties" in form:
        for key, item in value.items():
            fits(item, form["additionalProperties"], named, f"{at}.{key}")
    if "prefixItems" in form:
        assert len(value) == len(form["prefixItems"]), at
        for item, inside in zip(value, form["prefixItems"], strict=True):
            fits(item, inside, named, at)
    for number, item in enumerate(value if "items" in form else ()):
        fits(item, form["items"], named, f"{at}[{number}]")
    return None


PLACES = {"record": "cid", "node": "name", "failure": "signature", "spec": "chapter", "state": "digest"}


@pytest.mark.parametrize("state", ["empty", "one", "hostile", "mesh"])
def test_every_twin_is_as_described(state: str, client: Callable[[str], Client]) -> None:
    ask = client(state)
    described = ask.get("/openapi.json").json()
    assert described["openapi"] == "3.1.0"
    named = described["components"]["schemas"]
    asked = [*ROUTES, *([] if state == "empty" else ids(ask.home))]
    seen = set()
    for path in map(twin, asked):
        name = re.sub(
            rf"^/({'|'.join(PLACES)})/.*",
            lambda m: f"/{m[1]}/{{{PLACES[m[1]]}}}.json",
            path.partition("?")[0],
        )
        seen.add(name)
        operation = described["paths"][name]["get"]
        form = operation["responses"]["200"]["content"]["application/json"]["schema"]
        fits(ask.get(path).json(), form, named, path)
        given = {part.partition("=")[0] for part in path.partition("?")[2].split("&") if part}
        assert given <= {p["name"] for p in operation["parameters"]}, path
    if state == "mesh":
        assert seen | {"/plot.json"} == {p for p in described["paths"] if p.endswith(".json")}


def test_tables_are_as_described(client: Callable[[str], Client]) -> None:
    described = openapi.document()
    named = described["components"]["schemas"]
    for name in export.TABLES:
        form = described["paths"][f"/{name}.ndjson"]["get"]["responses"]["200"]["content"][
            "application/x-ndjson"
        ]["schema"]
        for row in rows_of(client("mesh"), f"/{name}")[:50]:
            fits(row, form, named, name)


def test_references_lead_somewhere() -> None:
    described = openapi.document()
    found = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert found == set(described["components"]["schemas"])
