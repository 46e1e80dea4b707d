"""The record pages of a merge and a refinement, from real records of a small mesh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spore_borg.home import Home
from spore_borg.records.envelope import Record
from spore_borg.store.log import Log
from spore_borg.store.tables import Tables
from spore_borg.views.reduce import View
from spore_borg.views.rows import tables
from tests.merge_world import lineage_of
from tests.pages.conftest import Client


def home_of(path: Path, records: Sequence[Record], mesh: bytes) -> Client:
    """The directory of a node that holds these records."""
    home = Home(path).create()
    with Log(home.log) as log:
        seq = {done.cid: done.seq for done in log.append(records)}
    held = Tables(home.views)
    held.publish(tables(View(records), seq, mesh))
    held.close()
    return Client(home.path)


def test_a_merge_lists_what_it_joins_and_whose_place_it_takes(tmp_path: Path) -> None:
    world, inputs = lineage_of("one", "two", "three")
    _, small = world.merged("ann", inputs[:2])
    view, large = world.merged("ben", inputs)
    ask = home_of(tmp_path / "home", world.records, world.mesh)
    first, last = str(small.target.cid), str(large.target.cid)
    said = ask.get(f"/record/{last}.json").json()["absorption"]
    weights = dict(zip(map(str, large.body.inputs), large.body.incomes, strict=True))
    assert {item["cid"]: item["income"] for item in said["inputs"]} == weights
    assert 1_000_000 - 3 <= sum(item["share_ppm"] for item in said["inputs"]) <= 1_000_000
    assert {item["shard"]["name"] for item in said["inputs"]} == {"one", "two", "three"}
    assert sorted(said["replaces"]) == sorted((first, str(inputs[2]))) == sorted(map(str, large.body.state))
    assert said["refines"] is None and view.bank.members() == (large.target.cid,)
    page = ask.get(f"/record/{last}").text
    assert "What it joins" in page and "has taken" in page
    assert all(f"/record/{cid}" in page for cid in (*weights, first))
    assert ask.get(f"/record/{first}.json").json()["absorption"]["replaces"] == sorted(map(str, inputs[:2]))
    assert "What it joins" not in ask.get(f"/record/{inputs[0]}").text


def test_a_refinement_says_what_it_refines_and_by_how_much(tmp_path: Path) -> None:
    world, (base,) = lineage_of("one")
    view, claim = world.absorbed("ben", "one", base=base, infidelity=1_000_000, gains={0: 0}, steps=5)
    assert view.bank.members() == (claim.target.cid,), claim.reason
    ask = home_of(tmp_path / "home", world.records, world.mesh)
    said = ask.get(f"/record/{claim.target.cid}.json").json()["absorption"]
    before, after = (view.claims[cid].body.metric for cid in (base, claim.target.cid))
    assert (said["refines"]["cid"], said["refines"]["infidelity"]) == (str(base), before)
    page = ask.get(f"/record/{claim.target.cid}").text
    told = [f"{(10**9 - metric) / 10**9:.4f}" for metric in (before, after)]
    assert f"fidelity {told[0]} before, {told[1]} after" in page and f"/record/{base}" in page
    assert f"({told[1]})" in ask.get(f"/record/{base}").text
