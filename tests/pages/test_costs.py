"""What runs and absorptions cost, each in its own unit, on the pages that say it."""

from __future__ import annotations

import json
import random
import sqlite3
from pathlib import Path

import pytest

from spore_borg.views import budget
from tests.pages import fixtures
from tests.pages.conftest import Client
from tests.pages.maker import Maker, text_of

CHARACTERS = 4_194_304


def of_a_lattice(home: Path) -> Client:
    """The directory of one node whose only task is a lattice."""
    path = fixtures.one(home)
    spec = {"kind": "lattice", "corpus": "my letters", "licence": "CC0-1.0 <b>"}
    with sqlite3.connect(path / "views.sqlite") as views:
        views.execute(
            "UPDATE task SET unit = 'nano-bits/character', budget_flops = ?, val_bytes = 65536, body = ?",
            (CHARACTERS, json.dumps({"name": "letters", "spec": spec})),
        )
        views.execute("UPDATE experiment SET flops = 14065")
    views.close()
    return Client(path)


def test_a_lattice_spends_and_holds_out_characters(tmp_path: Path) -> None:
    ask = of_a_lattice(tmp_path / "h")
    page = ask.get("/tasks").text
    assert "4,194,304 characters a run" in page and "65,536 characters in 64 blocks" in page
    assert "FLOP" not in page and "KiB in" not in page
    (task,) = ask.get("/tasks.json").json()["tasks"]
    assert task["brief"]["cost_unit"] == "character"
    (cid,) = [row["cid"] for row in ask.get("/frontier.json").json()["rows"]]
    record = ask.get(f"/record/{cid}").text
    assert "14,065 characters," in record and "FLOP" not in record
    plot = ask.get("/?x=cost")
    assert "characters read" in plot.text and "FLOP spent" not in plot.text


def test_a_trained_model_spends_flop(tmp_path: Path) -> None:
    ask = Client(fixtures.one(tmp_path / "h"))
    assert "400 GFLOP a run" in ask.get("/tasks").text and "FLOP spent" in ask.get("/?x=cost").text
    (task,) = ask.get("/tasks.json").json()["tasks"]
    assert task["brief"]["cost_unit"] == "FLOP" and (task["corpus"], task["licence"]) == ("", "")
    assert "not said" in ask.get("/tasks").text


def test_a_task_says_what_its_data_are_and_under_which_licence(tmp_path: Path) -> None:
    ask = of_a_lattice(tmp_path / "h")
    page = ask.get("/tasks").text
    assert "my letters" in page and "CC0-1.0 &lt;b&gt;" in page
    (task,) = ask.get("/tasks.json").json()["tasks"]
    assert (task["corpus"], task["licence"]) == ("my letters", "CC0-1.0 <b>")


@pytest.mark.parametrize(
    ("size", "ops", "words"),
    [
        (budget.BYTES_FREE, budget.OPS_FREE, "every trusted node may be asked"),
        (budget.BYTES_FREE + 1, 1, "verify_bytes_max and verify_ops_max"),
        (1, budget.OPS_FREE + 1, "verify_bytes_max and verify_ops_max"),
        (budget.BYTES_MAX + 1, 1, "nobody verifies it"),
        (1, budget.OPS_MAX + 1, "nobody verifies it"),
    ],
)
def test_an_absorption_says_what_it_costs_to_verify_and_whom(
    tmp_path: Path, size: int, ops: int, words: str
) -> None:
    make = Maker(tmp_path, random.Random(5))
    me = make.rng.randbytes(32)
    mesh = make.genesis(me, "m")
    task = make.task(me, "absorb", 1)
    cid = make.shard(me, 1, task, "CPU_X86_64", source_bytes=size - 1, shard_bytes=1, ops=ops)
    make.meta(mesh=mesh, mesh_name="m", round=2, round_settled=1, epoch_latest=2, version=1, records=make.seq)
    ask = Client(make.commit())
    declared = ask.get(f"/record/{text_of(cid)}.json").json()["absorption"]["declared"]
    assert (declared["source_bytes"], declared["shard_bytes"], declared["ops"]) == (size - 1, 1, ops)
    assert words in declared["takers"]
    page = ask.get(f"/record/{text_of(cid)}").text
    assert "Cost to verify, as declared" in page and words in page and "operations an item" in page


def test_a_mesh_with_its_own_limits_is_judged_by_them(tmp_path: Path) -> None:
    make = Maker(tmp_path, random.Random(6))
    me = make.rng.randbytes(32)
    mesh = make.genesis(me, "m")
    task = make.task(me, "absorb", 1)
    make.views.execute(
        "UPDATE task SET body = ?", (json.dumps({"spec": {"bytes_free": 10, "bytes_max": 100}}),)
    )
    cids = [make.shard(me, 1, task, "CPU", source_bytes=n, shard_bytes=0, ops=1) for n in (10, 11, 101)]
    make.meta(mesh=mesh, mesh_name="m", round=2, round_settled=1, epoch_latest=2, version=1, records=make.seq)
    ask = Client(make.commit())
    told = [
        ask.get(f"/record/{text_of(cid)}.json").json()["absorption"]["declared"]["takers"] for cid in cids
    ]
    assert [word in text for word, text in zip(("small", "much", "over the limits"), told, strict=True)] == [
        True
    ] * 3
