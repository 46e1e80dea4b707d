"""Declared runs: their seeds ripen while others train, and a killed node neither loses nor doubles one."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from spore_borg.limits import OPEN_INTENTS_MAX
from spore_borg.node.hub import Hub
from spore_borg.node.plans import WAITING_MAX, Plans
from spore_borg.node.researcher import Researcher
from spore_borg.policies.operators import Proposal
from spore_borg.records.bodies import Task
from spore_borg.records.cid import Cid
from tests.node.test_researcher import FakeWorker
from tests.world import World

HubIn = Callable[[World, str], Hub]


class Killed(BaseException):
    """Stands for a kill in the middle of a run."""


class Bridge:
    """A real hub as one node of a simulated world, which seals for it; nobody verifies."""

    def __init__(self, world: World, hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.hub, self.name = world, hub, name
        monkeypatch.setattr(hub, "epoch", lambda: world.epoch)
        self.taken = len(world.records)
        for node in world.nodes.values():
            node.kind = "idle"

    async def tick(self) -> None:
        """One epoch: what the hub wrote goes to the others, what they wrote to the hub."""
        world, node, had = self.world, self.world.nodes[self.name], {r.cid for r in self.world.records}
        for record in self.hub.own():
            if record.cid not in had:
                world.records.append(record)
                world.heads = (world.heads - set(record.past())) | {record.cid}
                node.seq, node.prev = record.seq + 1, record.cid
        world.tick()
        await self.hub.offer([r.raw for r in world.records[self.taken :]], b"\0" * 32)
        self.taken = len(world.records)
        await self.hub.refresh()


@pytest.fixture
def bridge(hub_in: HubIn, monkeypatch: pytest.MonkeyPatch) -> Bridge:
    world = World(41)
    world.populate("a", "b")
    world.run(2)
    hub = hub_in(world, "a")
    hub.blobs.put_bytes(b"data")
    return Bridge(world, hub, "a", monkeypatch)


def proposal(number: int) -> Proposal:
    return Proposal(recipe={"x": number}, bases=(), operator="random", why="because")


class Counting(Researcher):
    """Proposes one recipe after another without looking at anything."""

    async def _propose(
        self, _task_cid: Cid, _task: Task, declared: frozenset[bytes], *, wait: bool
    ) -> Proposal:
        return proposal(len(self.hub.own("intent")))


def researcher(hub: Hub, worker: FakeWorker) -> Counting:
    async def here(cid: Cid) -> Path:
        return hub.blobs.path(cid)

    return Counting(
        hub, worker, here, lambda _: None, family="CPU_TEST", fingerprint=b"F" * 32, rng=random.Random(1),  # type: ignore[arg-type]
    )  # fmt: skip


def research(bridge: Bridge, made: Counting, count: int) -> bool:
    """So many experiments, while epochs go by; false if it was killed before."""
    alive = []

    async def epochs() -> None:
        while True:
            await trio.sleep(0.01)
            await bridge.tick()

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(epochs)
                with contextlib.suppress(Killed):
                    await made.run(bridge.world.task, count)
                    alive.append(True)
                nursery.cancel_scope.cancel()
            await bridge.tick()
            await bridge.tick()

    trio.run(main)
    return bool(alive)


def seeds_are_right(hub: Hub, count: int) -> None:
    """Every experiment is the only one of its intent, and none has a wrong seed."""
    made = hub.own("experiment")
    assert len(made) == count == len({record.body.intent for record in made})
    for record in made:  # the worker gives every run the same weights, which is another matter
        assert record.cid in hub.view.witnesses, hub.view.notes.get(record.cid)
        assert len(hub.view.witnesses[record.cid]) == 2


def test_seeds_ripen_while_others_train(bridge: Bridge) -> None:
    hub = bridge.hub
    worker = FakeWorker(*[None] * 6)
    assert research(bridge, researcher(hub, worker), 6)
    kinds = [record.kind for record in hub.own() if record.kind in ("intent", "experiment")]
    assert kinds[:WAITING_MAX] == ["intent"] * WAITING_MAX and kinds.count("intent") == 6
    seeds_are_right(hub, 6)
    assert [record.body.intent for record in hub.own("experiment")] == [r.cid for r in hub.own("intent")]
    assert [job["seed"] for job in worker.jobs] == [
        int.from_bytes(record.body.seed, "big") for record in hub.own("experiment")
    ]
    assert not list((hub.home.work / "plans" / str(bridge.world.task)).iterdir())


def test_a_killed_node_goes_on_with_what_it_had_declared(bridge: Bridge) -> None:
    hub, first = bridge.hub, FakeWorker(None, Killed())  # type: ignore[arg-type]
    assert not research(bridge, researcher(hub, first), 5)
    declared = [record.cid for record in hub.own("intent")]
    assert len(declared) == 5 and len(hub.own("experiment")) == 1
    second = FakeWorker(*[None] * 4)
    assert research(bridge, researcher(hub, second), 4)
    assert [record.cid for record in hub.own("intent")] == declared  # nothing was declared anew
    assert second.jobs[0]["seed"] == first.jobs[1]["seed"]
    seeds_are_right(hub, 5)


def test_a_plan_that_was_never_declared_or_is_damaged_is_none(bridge: Bridge) -> None:
    hub, task = bridge.hub, bridge.world.task
    plans = Plans(hub, task)
    for number in range(3):
        plans.declare(proposal(number), hub.epoch() + 9)
    plans._files.put(b"n" * 32, {"recipe": {"x": 9}, "bases": [], "operator": "random", "why": "not signed"})
    assert Plans(hub, task).waiting == plans.waiting
    files = list((hub.home.work / "plans" / str(task)).iterdir())
    assert len(files) == 3
    damaged = next(path for path in files if '"x": 1' in path.read_text())
    for damage in ("", "[]", "{}", '{"recipe": 3, "bases": [], "operator": "", "why": ""}'):
        damaged.write_text(damage)
        assert Plans(hub, task).waiting == [plans.waiting[0], plans.waiting[2]]
    plans.drop(plans.waiting[0])
    assert Plans(hub, task).waiting == [plans.waiting[1]]


def test_lost_plans_leave_room_within_the_limit(bridge: Bridge) -> None:
    hub, task = bridge.hub, bridge.world.task

    async def main() -> None:
        for lost in range(1, OPEN_INTENTS_MAX - 1):
            plans = Plans(hub, task)
            plans.declare(proposal(lost), hub.epoch() + 30)
            for path in (hub.home.work / "plans" / str(task)).iterdir():
                path.unlink()
            await bridge.tick()
            assert Plans(hub, task).room() == min(WAITING_MAX, OPEN_INTENTS_MAX - 1 - lost)

    trio.run(main)
    assert not any(promise.fault for promise in hub.view.promises.values())


def test_a_run_that_gets_no_seed_is_given_up_and_told(bridge: Bridge) -> None:
    hub, world = bridge.hub, bridge.world
    plans = Plans(hub, world.task)
    told: list[dict[str, Any]] = []
    hub.on_event.append(told.append)

    async def main() -> None:
        plans.declare(proposal(1), hub.epoch() + 9)
        plans.declare(proposal(1), hub.epoch() + 9)  # the same once more
        for _ in range(4):
            await bridge.tick()

    trio.run(main)
    found = plans.ripe()
    assert found is not None and found[0] is plans.waiting[0]
    plans.drop(found[0])
    assert plans.ripe() is None and not plans.waiting
    assert [item["event"] for item in told if item["event"] == "lapsed"] == ["lapsed"]
    assert "same run before" in told[-1]["text"]
