"""The research loop with a worker that fails, refuses and recovers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from spore_borg.errors import NotFound
from spore_borg.node import researcher
from spore_borg.node.hub import Hub
from spore_borg.node.plans import Plans
from spore_borg.node.researcher import Researcher
from spore_borg.policies.operators import Proposal
from spore_borg.records.bodies import Task
from spore_borg.records.cid import Cid
from spore_borg.runner.errors import WorkerFailed, WorkerRefused, WorkerTimedOut
from tests.world import SEGMENTS, World, h
from workspace import tasks

HubIn = Callable[[World, str], Hub]
FAILED = WorkerFailed(op="train", detail="exit status -9")


class FakeWorker:
    """Answers ``train`` with what it was given, one after another: an error, or None for a run that ends well."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.jobs: list[Mapping[str, Any]] = []

    async def call(
        self,
        op: str,
        params: Mapping[str, Any],
        on_progress: Callable[[dict[str, Any]], None],
        timeout_s: float,
    ) -> dict[str, Any]:
        assert op == "train" and 0 < timeout_s < 10**6
        self.jobs.append(params)
        await trio.lowlevel.checkpoint()
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome
        on_progress({"step": 1, "steps": 2, "loss": 3})
        out = Path(params["out_dir"])
        paths = []
        for number in range(SEGMENTS):
            paths.append(out / f"state{number}")
            paths[-1].write_bytes(h("state", params["seed"], number))
        (out / "weights").write_bytes(h("weights", params["seed"]))
        return {
            "status": "done", "losses": [10**9] * 8, "digests": [h("d", n).hex() for n in range(SEGMENTS + 1)],
            "params": h("p").hex(), "tail": h("t").hex(), "weights_path": str(out / "weights"),
            "state_paths": [None, *map(str, paths[1:])], "steps": 40, "flops": 1, "cpu_ms": 1, "params_count": 1,
            "curve": [3],
        }  # fmt: skip


class Fixed(Researcher):
    """Proposes one recipe after another without looking at anything."""

    async def _propose(
        self, _task_cid: Cid, _task: Task, declared: frozenset[bytes], *, wait: bool
    ) -> Proposal:
        return Proposal(recipe={"x": self.count + len(declared)}, bases=(), operator="random", why="because")


@pytest.fixture
def hub(hub_in: HubIn) -> Hub:
    world = World(31)
    world.populate()
    hub = hub_in(world, "root")
    hub.blobs.put_bytes(b"data")
    return hub


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have slept."""
    slept: list[float] = []
    sleep = trio.sleep

    async def nap(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(researcher.trio, "sleep", nap)
    return slept


def research(hub: Hub, worker: FakeWorker, fetch: Callable[[Cid], Any] | None = None) -> Researcher:
    async def here(cid: Cid) -> Path:
        return hub.blobs.path(cid)

    shown: list[Any] = []
    made = Fixed(
        hub, worker, fetch or here, shown.append, family="CPU_TEST", fingerprint=b"F" * 32, rng=random.Random(1),  # type: ignore[arg-type]
    )  # fmt: skip
    (task,) = hub.view.tasks

    async def main() -> None:
        with trio.fail_after(60):
            await made.run(task, len(worker.outcomes))

    trio.run(main)
    assert not worker.outcomes and shown[-1] is None  # nothing is shown as running any more
    return made


def test_each_outcome_is_a_record_and_research_goes_on(hub: Hub, naps: list[float]) -> None:
    refused = WorkerRefused(op="train", kind="recipe", detail="width is 3")
    worker = FakeWorker(FAILED, refused, WorkerTimedOut(op="train", limit_s="9"), None)
    made = research(hub, worker)
    records = hub.own("experiment")
    assert [record.body.outcome for record in records] == ["crashed"] * 3 + ["kept"]
    assert "exit status -9" in records[0].body.error and "width is 3" in records[1].body.error
    assert made.failures == 0
    last = records[-1].body
    assert last.weights is not None and hub.blobs.has(last.weights) and all(map(hub.blobs.has, last.states))
    assert made.runs.get(last.state_root) is not None
    assert not (hub.home.work / "run").exists()
    assert [record.kind for record in hub.records[-8:]] == ["intent", "experiment"] * 4


def test_a_worker_that_keeps_ending_is_given_longer_and_longer_rests(hub: Hub, naps: list[float]) -> None:
    research(hub, FakeWorker(*[FAILED] * 12, None, FAILED))
    first = researcher.PAUSE_S
    assert naps[:3] == [2 * first, 4 * first, 8 * first]
    assert naps[11] == researcher.PAUSE_S_MAX and naps[-1] == 2 * first  # after a good run from the beginning
    assert len(hub.own("experiment")) == 14


def test_a_refused_recipe_costs_no_rest(hub: Hub, naps: list[float]) -> None:
    research(hub, FakeWorker(*[WorkerRefused(op="train", kind="crashed", detail="diverged")] * 3))
    assert naps == []


def test_a_dataset_that_nobody_has_is_waited_for_and_told_once(hub: Hub, naps: list[float]) -> None:
    asked: list[Cid] = []

    async def fetch(cid: Cid) -> Path:
        asked.append(cid)
        if len(asked) < 4:
            raise NotFound(what="blob", name=str(cid), hint="")
        return hub.blobs.path(cid)

    research(hub, FakeWorker(None), fetch)
    assert len(asked) == 4 and naps == [researcher.IDLE_S] * 3
    assert [item["event"] for item in hub.events].count("waiting") == 1


def test_recipes_of_strangers_that_no_harness_takes_are_no_trials(hub_in: HubIn) -> None:
    world = World(32)
    world.populate("a")
    world.experiment(world.nodes["a"], 10**9, None)  # its recipe has a field that no task has
    hub = hub_in(world, "root")
    made = Researcher(
        hub, FakeWorker(), lambda _: None, lambda _: None, family="CPU_TEST", fingerprint=b"F" * 32,  # type: ignore[arg-type]
        rng=random.Random(1),
    )  # fmt: skip
    (task,) = hub.view.tasks
    assert [record.kind for record in hub.records].count("experiment") == 1
    assert made.trials(hub.view, task) == []
    base = tasks.spec("pico")["baseline"]
    for recipe in (base, {**base, "lr": -1}, {**base, "more": 1}, {"lr": base["lr"]}):
        proposal = Proposal(recipe=dict(recipe), bases=(), operator="random", why="because")
        plans = Plans(hub, task)
        plans.declare(proposal, hub.epoch() + 1)
        made.publish(
            task, hub.view.tasks[task], plans.waiting[-1], bytes(8), {"status": "crashed", "error": "x"}
        )
    assert [trial.recipe for trial in made.trials(hub.view, task)] == [base]


def test_a_task_that_nothing_can_be_proposed_for_ends_no_node(hub: Hub) -> None:
    made = Researcher(
        hub, FakeWorker(), lambda _: None, lambda _: None, family="CPU_TEST", fingerprint=b"F" * 32,  # type: ignore[arg-type]
        rng=random.Random(1),
    )  # fmt: skip
    (task,) = hub.view.tasks  # its baseline is no recipe of the harness

    async def main() -> None:
        with trio.move_on_after(0.5):
            await made._propose(task, hub.view.tasks[task], frozenset(), wait=True)
            raise AssertionError("there is nothing to propose")

    trio.run(main)
    assert [item["event"] for item in hub.events] == ["warning"]
