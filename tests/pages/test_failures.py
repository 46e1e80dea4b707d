"""The pages of failures: searched by words, paged by key, and from a crashed run to its fix."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

from tests.pages.conftest import Client
from tests.pages.maker import Maker


def test_signatures_gather_what_the_errors_say(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    value = ask.get("/failures.json").json()
    assert value["total"] == len(value["rows"]) == 6
    db = sqlite3.connect(ask.home / "views.sqlite")
    crashed = db.execute("SELECT count(*) FROM experiment WHERE outcome='crashed'").fetchone()[0]
    db.close()
    assert sum(row["runs"] for row in value["rows"]) == crashed
    most = ask.get("/failures.json?sort=most").json()["rows"]
    assert [row["runs"] for row in most] == sorted((row["runs"] for row in most), reverse=True)


def test_words_find_a_failure(client: Callable[[str], Client]) -> None:
    ask = client("mesh")

    def found(q: str) -> list[str]:
        return [row["text"] for row in ask.get(f"/failures.json?q={q}").json()["rows"]]

    assert len(found("loss+finite")) == 1
    assert found("LOSS+fin") == found("loss+finite")  # the last word may be a beginning
    assert found("los+finite") == []
    assert len(found("cpu_x86_64")) == 6
    assert found("nothing+says+this") == []
    assert found("...")  # no word at all is no search
    signature = ask.get("/failures.json?q=memory").json()["rows"][0]["signature"]
    assert found(signature) == found("memory")


def test_from_a_crashed_run_to_its_failure_and_its_fix(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    cid = ask.get("/records.json?outcome=crashed").json()["rows"][0]["cid"]
    shown = ask.get(f"/record/{cid}.json").json()["experiment"]["failure"]
    page = ask.get(f"/failure/{shown['signature']}.json").json()
    assert cid in [run["run"]["cid"] for run in page["runs"]]
    assert f"/failure/{shown['signature']}" in ask.get(f"/record/{cid}").text
    fixed = [run for run in page["runs"] if run["fixed_by"]]
    assert ask.get(f"/compare?a={fixed[0]['run']['cid']}&b={fixed[0]['fixed_by']}").status_code == 200


def test_many_failures_go_on_by_key_in_both_orders(tmp_path: Path) -> None:
    make = Maker(tmp_path / "many", random.Random(5))
    me = make.rng.randbytes(32)
    make.genesis(me, "many")
    task = make.task(me, "nano", 10**9)
    for number in range(130):
        word = "abcdefghij"[number % 10] + "abcdefghijklm"[number // 10]
        make.experiment(me, number, task, "CPU", outcome="crashed", error=f"{word} broke", metric=None)
    make.failures()
    ask = Client(make.commit())
    for order, key in (("recent", "before"), ("most", "after")):
        seen: list[str] = []
        path: str | None = f"/failures.json?sort={order}"
        while path:
            value = json.loads(ask.get(path).text)
            seen += [row["signature"] for row in value["rows"]]
            path = f"/failures.json?sort={order}&{key}={value['next']}" if value["next"] else None
        assert len(seen) == len(set(seen)) == 130
    rows = ask.get("/failures.ndjson").text.splitlines()
    assert len(rows) == 130
