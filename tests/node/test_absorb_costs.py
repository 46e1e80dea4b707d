"""What a node does about the cost of absorptions: tells authors, fetches no more than declared, contradicts lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from spore_borg.node import conversions
from spore_borg.node.download import TooLarge
from spore_borg.node.hub import Hub
from spore_borg.records.cid import RAW, Cid
from spore_borg.runner.errors import WorkerRefused
from spore_borg.views import bank
from spore_borg.views.draw import Probe
from spore_borg.views.verdicts import Claim
from tests.absorb_world import AbsorbWorld
from tests.node.test_absorb import Bench, FakeWorker

HubIn = Callable[[AbsorbWorld, str], Hub]
Change = dict[str, int]


def world_with(**limits: int) -> AbsorbWorld:
    world = AbsorbWorld(5)
    world.populate("ann", "ben")
    world.absorb_task(
        data=Cid.of(b"suite", RAW), spec={"kind": "absorption", "probes": "topics,sts", **limits}
    )
    world.run(2)
    return world


def test_an_author_is_told_before_it_converts_what_its_mesh_does_not_take(
    hub_in: HubIn, tmp_path: Path
) -> None:
    world = world_with(bytes_max=5)
    bench = Bench(hub_in(world, "ann"), FakeWorker(tmp_path / "w"))
    name = bench.ask("file:/a/large/model")
    bench.next()
    stage, text = bench.stage(name)
    assert stage == "failed" and "Too large for this mesh: 1 MB" in text and "smaller model" in text
    assert bench.worker.ops() == ["source"] and not bench.hub.own("absorption")


def test_the_worker_is_told_the_meshs_limit_of_operations(hub_in: HubIn, tmp_path: Path) -> None:
    bench = Bench(hub_in(world_with(ops_max=77), "ann"), FakeWorker(tmp_path / "w"))

    def fault(op: str) -> None:
        if op == "absorb":
            assert bench.worker.calls[-1][1]["ops_max"] == 77
            raise WorkerRefused(op=op, kind="data", detail="toy is too slow for this mesh")

    bench.worker.fault = fault
    name = bench.ask()
    bench.next()
    assert bench.stage(name) == ("failed", "toy is too slow for this mesh")


def test_a_shard_that_makes_it_too_large_is_not_published(hub_in: HubIn, tmp_path: Path) -> None:
    bench = Bench(hub_in(world_with(bytes_max=20), "ann"), FakeWorker(tmp_path / "w"))
    name = bench.ask()
    bench.next()
    assert bench.stage(name)[0] == "failed" and bench.worker.ops()[-1] == "absorb"
    assert not bench.hub.own("absorption")


def claimed(world: AbsorbWorld, bench: Bench, change: Change) -> Claim:
    """A claim of ann's with files in ben's hub; ``change``: what it declares instead of the truth."""
    cid = world.absorb("ann", "minilm", **change).cid
    view = world.run(2)
    bench.hub.blobs.put_bytes(b"minilm")
    bench.hub.blobs.put_bytes(world.shards[cid].params)
    return view.claims[cid]


@pytest.mark.parametrize(
    ("change", "honest"),
    [
        ({}, True),
        ({"source_bytes": 5}, False),
        ({"source_bytes": 7}, False),
        ({"shard_bytes": 31}, False),
        ({"shard_bytes": 33}, False),
    ],
)
def test_files_of_another_size_than_declared_are_evidence_that_fits_no_claim(
    change: Change, honest: bool, hub_in: HubIn, tmp_path: Path
) -> None:
    world = world_with()
    bench = Bench(hub_in(world, "ben"), FakeWorker(tmp_path / "w"))
    claim = claimed(world, bench, change)
    asked: list[str] = []

    async def call(op: str, job: dict[str, Any], _unusable: dict[str, Any] | None) -> dict[str, Any]:
        asked.append(op)
        assert job["ops"] == claim.body.ops  # type: ignore[union-attr]
        return dict(getattr(bench.worker, op)(job))

    async def main() -> Any:
        probe = Probe(blocks=(0, 32), segments=((3, 1),))
        view = world.view()
        return await conversions.recompute(view, call, bench.blob, claim, probe, tmp_path / "cache")

    found = trio.run(main)
    assert asked == (["measure", "redo"] if honest else [])
    if not honest:
        assert found.params == conversions.ZERO and found.losses == ((0, 0), (32, 0))
        assert found.segments == ((3, 1, *[conversions.ZERO] * 3),)


def test_a_verifier_fetches_no_more_than_declared(hub_in: HubIn, tmp_path: Path) -> None:
    world = world_with()
    bench = Bench(hub_in(world, "ben"), FakeWorker(tmp_path / "w"))
    claim = claimed(world, bench, {"source_bytes": 5})
    seen: list[int | None] = []
    whole = bench.blob

    def blob(cid: Cid, *, most_bytes: int | None = None) -> Any:
        seen.append(most_bytes)
        if most_bytes is not None and bench.hub.blobs.size(cid) > most_bytes:
            raise TooLarge(cid=cid, size_bytes=bench.hub.blobs.size(cid), most_bytes=most_bytes)
        return whole(cid)

    async def main() -> Any:
        async def call(*_: Any) -> dict[str, Any]:
            raise AssertionError("nothing is computed")

        return await conversions.recompute(
            world.view(), call, blob, claim, Probe((0,), ()), tmp_path / "cache"
        )

    assert trio.run(main).params == conversions.ZERO
    assert seen == [5]


def test_who_absorbs_again_what_was_refused_is_told_why_and_when(hub_in: HubIn, tmp_path: Path) -> None:
    world = world_with()
    hub = hub_in(world, "ann")
    bench = Bench(hub, FakeWorker(tmp_path / "w", gains={0: 0, 1: 0}))
    bench.ask()
    bench.next()
    (record,) = bench.hub.own("absorption")
    trio.run(hub.refresh)
    claim = Claim(record.cid, record, hub.view.tasks[record.body.task], 0)
    claim.settle("accepted", 1, "as others found")
    refused = bank.Standing(record.cid, record.author, "text", None, bank.REFUSED, "It does not help.", (), 0)
    hub.view.claims[record.cid], hub.view.bank.standings[record.cid] = claim, refused
    work = (record.body.task, tuple(sorted({cid for _, cid in record.body.sources})), "few-spike/1", 5, None)
    hub.view.absorbed[work], hub.view.measured[work] = record.cid, 1
    hub.view.ack[record.cid] = 0
    again = bench.ask()
    bench.next()
    stage, text = bench.stage(again)
    assert stage == "refused" and "It does not help. It can be offered again when the state" in text
    other = dataclasses.replace(refused, cid=Cid.of(b"member"), word=bank.JOINED)
    hub.view.bank.standings[other.cid] = other
    bench.absorber._check_free(work, "toy", (other.cid,))  # raises nothing now
