"""A node that merges: what a person asks for, what it proposes by itself, and what verifiers are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from spore_borg.node import conversions
from spore_borg.node.hub import Hub
from spore_borg.node.merger import Declined
from spore_borg.policies import merging
from spore_borg.records.cid import RAW, Cid
from spore_borg.views import bank
from spore_borg.views.draw import Probe
from spore_borg.views.reduce import View
from tests.absorb_world import AbsorbWorld
from tests.merge_world import ALONE, MergeWorld
from tests.node.test_absorb import Bench, FakeWorker

HubIn = Callable[[AbsorbWorld, str], Hub]


class MergingWorker(FakeWorker):
    """Checks what it is told of a merge."""

    def absorb(self, params: Mapping[str, Any]) -> dict[str, Any]:
        files = {name: Path(path).read_bytes() for name, path in params["files"]}
        assert files == {"00/model.bin": files["00/model.bin"], "01/model.bin": files["01/model.bin"]}
        assert set(files.values()) == {b"one", b"two"}
        assert Path(params["scratch_dir"]).parent == Path(params["files"][0][1]).parent.parent
        return super().absorb(params)


@pytest.fixture
def world() -> MergeWorld:
    world = MergeWorld(5)
    world.populate("ann", "ben")
    world.absorb_task(data=Cid.of(b"suite", RAW))
    world.run(2)
    for name, model in (("ann", "one"), ("ben", "two")):
        world.absorbed(name, model, gains=ALONE)
    assert len(world.view().bank.members()) == 2
    return world


def bench_of(world: MergeWorld, hub: Hub, folder: Path) -> Bench:
    bench = Bench(hub, MergingWorker(folder))
    for raw in (b"one", b"two", *(shard.params for shard in world.shards.values())):
        bench.hub.blobs.put_bytes(raw)
    return bench


def test_what_is_asked_becomes_a_claim_that_the_mesh_takes(
    world: MergeWorld, hub_in: HubIn, tmp_path: Path
) -> None:
    bench = bench_of(world, hub_in(world, "ann"), tmp_path / "w")
    inputs = world.view().bank.members()
    name = bench.absorber.merger.ask([str(cid) for cid in reversed(inputs)], "trimmed/1", None)
    assert bench.next()
    assert bench.stage(name)[0] == "published", bench.stage(name)
    (record,) = bench.hub.own("merge")
    body = record.body
    assert (body.inputs, body.state, body.merging, body.name) == (inputs, inputs, "trimmed/1", "one + two")
    assert body.incomes == tuple(bench.hub.view.bank.standings[cid].income for cid in inputs)
    assert record.cid not in View(bench.hub.records).notes
    asked = bench.worker.calls[-1][1]
    assert asked["merge"] == {"rule": "trimmed/1", "incomes": list(body.incomes), "base": False}
    assert asked["replaced"] == [str(cid) for cid in inputs]
    assert not Path(asked["scratch_dir"]).exists(), "merged tensors are gone when the shard is there"


def test_what_can_be_no_merge_is_refused_at_once_and_later(
    world: MergeWorld, hub_in: HubIn, tmp_path: Path
) -> None:
    _, other = world.absorbed("ann", "wide", params_count=20, gains=ALONE)
    bench = bench_of(world, hub_in(world, "ann"), tmp_path / "w")
    one, two, wide = (
        next(cid for cid in world.view().bank.members() if world.view().body_of(cid).name == name)
        for name in ("one", "two", "wide")
    )
    ask = bench.absorber.merger.ask
    with pytest.raises(Declined, match="no lineage"):
        ask([str(one), str(wide)], "mean/1", None)
    with pytest.raises(Declined, match="no id of a record"):
        ask([str(one), "…"], "mean/1", None)
    with pytest.raises(Declined, match="no rule"):
        ask([str(one), str(two)], "median/1", None)
    assert not bench.absorber.requests.all(), "nothing is kept of what cannot be"
    kept = bench.absorber.requests.add_merge([str(one), str(other.target.cid)], "mean/1")
    assert bench.next()
    stage, text = bench.stage(kept.id)
    assert stage == "failed" and "no lineage" in text


def test_a_merge_is_proposed_by_one_node_a_turn(
    world: MergeWorld, hub_in: HubIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "TURN_ROUNDS", 1)
    view, inputs = world.view(), world.view().bank.members()
    assert merging.candidates(view) == [inputs]
    keys = {name: node.key.public for name, node in world.nodes.items()}
    turns = set()
    for _ in range(24):
        view = world.run(1)
        able = [name for name, key in keys.items() if merging.to_merge(view, key)]
        assert len(able) == 1, "each turn has one writer"
        turns.add(able[0])
    assert len(turns) > 1, "turns go round"
    while not merging.to_merge(view, keys["ann"]):
        view = world.run(1)
    bench = bench_of(world, hub_in(world, "ann"), tmp_path / "w")
    assert not bench.next(), "not at once"
    bench.absorber._rest_until_s = time.monotonic() - 1
    assert bench.next()
    (record,) = bench.hub.own("merge")
    assert record.body.inputs == inputs
    assert merging.candidates(View(world.records)) == [inputs], "the world does not know the claim yet"


def test_a_merged_lineage_is_merged_again_when_another_model_comes(world: MergeWorld) -> None:
    inputs = world.view().bank.members()
    view, claim = world.merged("ben", inputs)
    assert view.bank.standings[claim.target.cid].word == bank.JOINED
    assert merging.candidates(view) == []
    view, third = world.absorbed("ann", "three", gains=ALONE)
    (found,) = merging.candidates(view)
    assert set(found) == {*inputs, third.target.cid}
    world.absorbed("ben", "wide", params_count=20, gains=ALONE)
    assert merging.candidates(world.view()) == [found], "another architecture stays by itself"


def test_a_verifier_is_told_the_merge_that_the_record_states(
    world: MergeWorld, hub_in: HubIn, tmp_path: Path
) -> None:
    inputs = world.view().bank.members()
    _, claim = world.merged("ann", inputs)
    bench = bench_of(world, hub_in(world, "ben"), tmp_path / "w")
    seen: list[tuple[str, dict[str, Any]]] = []

    async def call(op: str, job: dict[str, Any], _unusable: dict[str, Any] | None) -> dict[str, Any]:
        seen.append((op, job))
        assert [name for name, _ in job["files"]] == ["00/model.bin", "01/model.bin"]
        return dict(getattr(bench.worker, op)(job))

    async def main() -> None:
        probe = Probe(blocks=(0, 32), segments=((3, 1),))
        cache = tmp_path / "cache"
        await conversions.recompute(bench.hub.view, call, bench.blob, claim, probe, cache)

    trio.run(main)
    assert [op for op, _ in seen] == ["measure", "redo"]
    assert all(job["merge"]["incomes"] == list(claim.body.incomes) for _, job in seen)
    assert all(job["replaced"] == [str(cid) for cid in inputs] for _, job in seen)
    assert len({job["scratch_dir"] for _, job in seen}) == 1, "what is merged once serves every part"
