"""Duties carried out: what a verifier does when a worker, a disk, a file or an author fails; the janitor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from spore_borg.errors import NotFound
from spore_borg.node import janitor, verifier
from spore_borg.node.hub import Hub
from spore_borg.node.verifier import Verifier
from spore_borg.policies.verifier import duties
from spore_borg.records.cid import Cid
from spore_borg.runner.errors import WorkerFailed, WorkerRefused, WorkerTimedOut
from spore_borg.views.reduce import View
from spore_borg.views.verdicts import ACCEPTED, Claim
from tests.world import SEGMENTS, STEPS, Truth, World, h

HARNESS = h("eval")  # the evaluator that the simulated task names
HubIn = Callable[[World, str], Hub]


class FakeWorker:
    """Computes what the simulated world computes; ``fault`` may answer first."""

    def __init__(self, world: World, fault: Callable[[str, Mapping[str, Any]], None] | None = None) -> None:
        self.world, self.fault = world, fault
        self.calls: list[tuple[str, Mapping[str, Any]]] = []

    async def call(self, op: str, params: Mapping[str, Any], timeout_s: float = 0.0) -> dict[str, Any]:
        assert timeout_s == verifier.PROBE_TIMEOUT_S
        self.calls.append((op, params))
        await trio.sleep(0.001)
        if self.fault is not None:
            self.fault(op, params)
        truth = next(
            t for t in self.world.truth.values() if params["recipe"]["x"] in (t.quality, str(t.quality))
        )
        if op == "evaluate":
            losses = truth.losses()
            return {
                "params": h("params", truth.recipe, truth.seed).hex(),
                "losses": [[b, losses[b]] for b in params["blocks"]],
            }
        return self.replayed(truth, params["segment"], params["inner_step"])

    def replayed(self, truth: Truth, segment: int, step: int) -> dict[str, Any]:
        first = segment * STEPS // SEGMENTS
        names = {"start": first, "inner": first + step, "end": first + STEPS // SEGMENTS}
        return {name: truth.digest(at).hex() for name, at in names.items()} | {"cpu_ms": 1}


def drawn(world: World, verifiers: str = "b", claims: int = 1) -> list[Claim]:
    """Claims of node a for which one idle node is drawn."""
    world.nodes[verifiers].kind = "idle"
    made = [world.experiment(world.nodes["a"], 10**9 + number, None).cid for number in range(claims)]
    key = world.nodes[verifiers].key.public
    for _ in range(8):
        view = world.tick()
        found = [view.claims[cid] for cid in made if cid in view.claims]
        if len(found) == claims and all(c.stage == "drawn" and key in c.probes for c in found):
            return found
    raise AssertionError("nobody was drawn")


def stocked(hub: Hub, world: World) -> None:
    """Put every blob of every claim into the hub's store."""
    hub.blobs.put_bytes(b"data")
    for truth in world.truth.values():
        hub.blobs.put_bytes(h("params", truth.recipe, truth.seed))
        for segment in range(1, SEGMENTS):
            hub.blobs.put_bytes(truth.digest(segment * STEPS // SEGMENTS))


class Bench:
    """A verifier with a fake worker, and what it did."""

    def __init__(self, hub: Hub, worker: FakeWorker, harness: bytes = HARNESS) -> None:
        self.hub, self.worker = hub, worker
        self.fetched: list[Cid] = []
        self.verifier = Verifier(hub, worker, self.fetch, lambda _: None, harness=harness)  # type: ignore[arg-type]

    async def fetch(self, cid: Cid, _most_bytes: int | None = None) -> Path:
        self.fetched.append(cid)
        return self.hub.blobs.path(cid)

    def run(self, until: Callable[[], bool], limit_s: float = 10.0) -> bool:
        """Run until a condition holds; False when it did not in time."""

        async def main() -> bool:
            with trio.move_on_after(limit_s):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.verifier.run)
                    while not until():  # noqa: ASYNC110
                        await trio.sleep(0.01)
                    nursery.cancel_scope.cancel()
                return True
            print([(item["event"], item["text"]) for item in self.hub.events])
            return False

        return trio.run(main)

    def told(self, what: str) -> list[str]:
        return [item["text"] for item in self.hub.events if item["event"] == what]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "RETRY_S", 0.05)


@pytest.fixture
def world() -> World:
    world = World(11)
    world.populate("a", "b")
    return world


def test_a_drawn_verifier_commits_to_what_it_computed(world: World, hub_in: HubIn) -> None:
    (claim,) = drawn(world)
    hub = hub_in(world, "b")
    stocked(hub, world)
    bench = Bench(hub, FakeWorker(world))
    assert bench.run(lambda: bool(hub.own("attest_commit")))
    (commit,) = hub.own("attest_commit")
    assert commit.body.target == claim.cid
    assert bench.verifier.evidence.get(commit.body.digest) is not None
    states = [state for state in claim.body.states if not hub.blobs.has(state)]
    assert len(states) == len(
        [1 for op, params in bench.worker.calls if op == "replay" and params["segment"]]
    )
    assert claim.body.weights is not None and hub.blobs.has(claim.body.weights)


def test_an_endless_run_costs_one_timeout_and_holds_up_nothing(world: World, hub_in: HubIn) -> None:
    claims = drawn(world, claims=2)
    hub = hub_in(world, "b")
    stocked(hub, world)
    slow = claims[0].body.recipe["x"]

    def fault(op: str, params: Mapping[str, Any]) -> None:
        if params["recipe"]["x"] == slow:
            raise WorkerTimedOut(op=op, limit_s="600")

    bench = Bench(hub, FakeWorker(world, fault))
    assert bench.run(lambda: bool(hub.own("attest_commit")) and bool(bench.told("abandoned")))
    assert not bench.run(
        lambda: len(hub.own("attest_commit")) > 1, 0.5
    )  # and it stays so: no evidence, no second try
    assert [commit.body.target for commit in hub.own("attest_commit")] == [claims[1].cid]
    assert sum(params["recipe"]["x"] == slow for _, params in bench.worker.calls) == 1


def test_a_worker_that_always_ends_is_not_tried_for_ever(world: World, hub_in: HubIn) -> None:
    drawn(world)
    hub = hub_in(world, "b")
    stocked(hub, world)

    def fault(op: str, _params: Mapping[str, Any]) -> None:
        raise WorkerFailed(op=op, detail="exit status -9")

    bench = Bench(hub, FakeWorker(world, fault))
    assert bench.run(lambda: bool(bench.told("abandoned")))
    assert not bench.run(lambda: False, 0.3)
    assert len(bench.worker.calls) == verifier.TRIES_MAX and not hub.own("attest_commit")


def test_what_an_author_published_and_nobody_can_use_is_evidence(world: World, hub_in: HubIn) -> None:
    drawn(world)
    hub = hub_in(world, "b")
    stocked(hub, world)

    def fault(op: str, _params: Mapping[str, Any]) -> None:
        if op == "evaluate":
            raise WorkerRefused(op=op, kind="data", detail="these are no weights")

    bench = Bench(hub, FakeWorker(world, fault))
    assert bench.run(lambda: bool(hub.own("attest_commit")))
    kept = bench.verifier.evidence.get(hub.own("attest_commit")[0].body.digest)
    assert kept is not None and kept["params"] == "00" * 32 and {loss for _, loss in kept["losses"]} == {0}


@pytest.mark.parametrize("which", ["weights", "data", "state"])
def test_bytes_that_rotted_here_are_no_evidence_against_anybody(
    world: World, hub_in: HubIn, which: str
) -> None:
    (claim,) = drawn(world)
    hub = hub_in(world, "b")
    stocked(hub, world)
    probe = claim.probes[hub.me]
    segment = next((s for s, _ in probe.segments if s), None)
    if which == "state" and segment is None:
        pytest.skip("the draw asks for the first segment only, which has no published state")
    assert claim.body.weights is not None
    cid = {"weights": claim.body.weights, "data": claim.task.data}.get(which) or claim.body.states[
        segment - 1
    ]  # type: ignore[operator]
    path = hub.blobs.path(cid)
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    bench = Bench(hub, FakeWorker(world))
    assert bench.run(lambda: bool(bench.told("delayed")))
    assert not hub.own("attest_commit") and not hub.blobs.has(cid)  # to be fetched again
    hub.blobs.put_bytes(whole)
    assert bench.run(lambda: bool(hub.own("attest_commit")))


def test_a_blob_that_nobody_has_is_waited_for_as_long_as_it_takes(world: World, hub_in: HubIn) -> None:
    drawn(world)
    hub = hub_in(world, "b")
    bench = Bench(hub, FakeWorker(world))
    assert bench.run(lambda: len(bench.fetched) > verifier.TRIES_MAX + 1)
    assert not bench.told("abandoned") and not hub.own("attest_commit")
    stocked(hub, world)
    assert bench.run(lambda: bool(hub.own("attest_commit")))


def test_a_task_of_another_harness_is_left_to_others(world: World, hub_in: HubIn) -> None:
    drawn(world, claims=2)
    hub = hub_in(world, "b")
    stocked(hub, world)
    bench = Bench(hub, FakeWorker(world), harness=h("another version"))
    assert not bench.run(lambda: False, 0.4)
    assert not bench.worker.calls and not hub.own("attest_commit")
    assert len(bench.told("warning")) == 1 and "Install the version" in bench.told("warning")[0]


@pytest.mark.parametrize("damage", [None, b"", b"[]", b'{"nonce": "00"}'])
def test_lost_evidence_is_told_once_and_ends_nothing(
    world: World, hub_in: HubIn, damage: bytes | None
) -> None:
    world.nodes["b"].kind = "mute"  # commits, never reveals
    record = world.experiment(world.nodes["a"], 10**9, None)
    key = world.nodes["b"].key.public
    for _ in range(10):
        view = world.tick()
        if any(duty.what == "reveal" for duty in duties(view, key)):
            break
    else:
        raise AssertionError("nothing to reveal")
    hub = hub_in(world, "b")
    bench = Bench(hub, FakeWorker(world))
    if damage is not None:
        name = view.claims[record.cid].evidence[key].commit.body.digest
        (hub.home.work / "evidence" / f"{name.hex()}.json").write_bytes(damage)
    assert bench.run(lambda: bool(bench.told("abandoned")))
    assert not bench.run(lambda: False, 0.3)
    assert len(bench.told("abandoned")) == 1 and not hub.own("attest_reveal")


def test_lost_secrets_of_an_own_run_are_told_once(world: World, hub_in: HubIn) -> None:
    world.nodes["a"].kind = "closed"  # never opens
    world.experiment(world.nodes["a"], 10**9, None)
    key = world.nodes["a"].key.public
    for _ in range(10):
        if any(duty.what == "open" for duty in duties(world.tick(), key)):
            break
    hub = hub_in(world, "a")
    bench = Bench(hub, FakeWorker(world))
    assert bench.run(lambda: bool(bench.told("abandoned")))
    assert "lost" in bench.told("abandoned")[0] and not hub.own("open")


def test_two_users_of_one_blob_do_not_take_it_from_each_other(world: World, hub_in: HubIn) -> None:
    (claim,) = drawn(world)
    hub = hub_in(world, "b")
    stocked(hub, world)
    bench = Bench(hub, FakeWorker(world))
    state = claim.body.states[0]

    async def main() -> None:
        async with bench.verifier.blob(state, keep=False):
            async with bench.verifier.blob(state, keep=False):
                pass
            assert hub.blobs.has(state)
        assert not hub.blobs.has(state)
        with pytest.raises(NotFound):
            async with bench.verifier.blob(state):
                pass

    trio.run(main)


# ---- the janitor


def accepted(world: World) -> tuple[View, Claim]:
    view, claim = world.claim("a", epochs=14)
    assert claim.verdict == ACCEPTED
    return view, claim


def test_states_go_when_their_claim_is_settled_and_not_before(world: World) -> None:
    view, claim = accepted(world)
    assert set(claim.body.states) <= set(janitor.disposable(view))
    (young,) = drawn(world)
    assert not set(young.body.states) & set(janitor.disposable(world.view()))


def test_over_budget_weights_go_oldest_first_but_never_those_of_the_frontier(
    world: World, hub_in: HubIn
) -> None:
    best = accepted(world)[1]
    worse = [world.claim("a", quality=2 * 10**9 + n, epochs=14)[1] for n in range(2)]
    hub = hub_in(world, "b")
    stocked(hub, world)
    hub.view = world.view()
    weights = [claim.body.weights for claim in (best, *worse)]
    assert all(cid is not None and hub.blobs.has(cid) for cid in weights)
    janitor._shrink(hub, hub.blobs.usage() - 1)
    assert [hub.blobs.has(cid) for cid in weights if cid] == [True, False, True]
    janitor._shrink(hub, 0)
    assert [hub.blobs.has(cid) for cid in weights if cid] == [True, False, False]
