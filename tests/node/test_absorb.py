"""A node that absorbs: requests on the disk, claims, duties of verifiers, measuring again, refining, retracting."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from spore_borg.errors import NotAllowed, NotFound, UsageError
from spore_borg.home import Home
from spore_borg.node import absorber as absorbing
from spore_borg.node.absorber import Absorber, retract_own
from spore_borg.node.cheats import ABSORB_CHEATS
from spore_borg.node.hub import Hub
from spore_borg.node.requests import Requests
from spore_borg.node.verifier import Verifier
from spore_borg.policies import merging
from spore_borg.policies.verifier import duties
from spore_borg.records import bodies
from spore_borg.records.cid import RAW, Cid
from spore_borg.runner.errors import WorkerRefused
from spore_borg.views import bank, gate
from spore_borg.views.terms import work_of
from spore_borg.views.verdicts import ACCEPTED, Claim
from tests.absorb_world import GROUPS, AbsorbWorld, losses
from tests.world import h

LEARN = h("learn")  # the evaluator of the simulated world's absorption task
HubIn = Callable[[AbsorbWorld, str], Hub]


class FakeWorker:
    """Answers the operations on models with made-up numbers; files are real."""

    pid = None

    def __init__(self, folder: Path, licence: str = "MIT", gains: Mapping[int, int] | None = None) -> None:
        self.folder, self.licence = folder, licence
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.losses = losses("made up", 5_000_000, {0: 60, 1: 0} if gains is None else gains)
        self.shard = b"a shard of " + repr(sorted((gains or {}).items())).encode()
        self.fault: Callable[[str], None] = lambda _op: None

    async def call(
        self, op: str, params: Mapping[str, Any], on_progress: Any = None, timeout_s: float = 0.0
    ) -> dict[str, Any]:
        self.calls.append((op, params))
        await trio.lowlevel.checkpoint()
        self.fault(op)
        assert timeout_s > 0
        return dict(getattr(self, op)(params))

    def made(self, path: str, raw: bytes) -> str:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw)
        return str(file)

    def suite(self, params: Mapping[str, Any]) -> dict[str, Any]:
        probe = {"name": "genre", "modality": "text", "fidelity": 64}
        return {"path": self.made("suite", b"suite"), "probes": [probe]}

    def source(self, params: Mapping[str, Any]) -> dict[str, Any]:
        files = [
            ["weights/model.bin", self.made("m", params["source"].encode())],
            ["config.json", self.made("c", b"{}")],
        ]
        return {"files": files, "origin": params["source"], "licence": self.licence, "name": "toy"}

    def inspect(self, params: Mapping[str, Any]) -> dict[str, Any]:
        assert {Path(path).read_bytes() for _, path in params["files"]} >= {b"{}"}
        return {
            "name": "toy",
            "head": "embedder",
            "modality": "text",
            "params_count": 10,
            "licence": self.licence,
        }

    def absorb(self, params: Mapping[str, Any]) -> dict[str, Any]:
        assert all(Path(path).is_file() for _, path in params["state"])
        assert Path(params["suite_path"]).read_bytes() == b"suite"
        return {
            "shard_path": self.made("shard", self.shard), "losses": list(self.losses),
            "digests": [h("chain", k).hex() for k in range(GROUPS + 1)], "params": h(self.shard).hex(),
            "tail": h("tail").hex(), "head": "embedder", "modality": "text", "name": "toy", "licence": self.licence,
            "params_count": 10, "layers": ["one", "two"], "report": {"active": 0.25}, "cpu_ms": 7,
            "ops": 1_000,
        }  # fmt: skip

    def measure(self, params: Mapping[str, Any]) -> dict[str, Any]:
        assert Path(params["shard_path"]).is_file()
        for name, path in params["files"]:
            assert path.endswith(name) and Path(path).read_bytes()
        found = [[block, self.losses[block]] for block in params["blocks"]]
        return {"losses": found, "params": h(self.shard).hex(), "cpu_ms": 3}

    def redo(self, params: Mapping[str, Any]) -> dict[str, Any]:
        k, step = params["segment"], params["inner_step"]
        return {
            "start": h("chain", k).hex(), "inner": h("rows", k, step).hex(), "end": h("chain", k + 1).hex(),
            "cpu_ms": 2,
        }  # fmt: skip

    def ops(self) -> list[str]:
        return [op for op, _ in self.calls]


class Bench:
    """An absorber on a hub of the simulated world."""

    def __init__(self, hub: Hub, worker: FakeWorker, made: type[Absorber] = Absorber, **more: Any) -> None:
        self.hub, self.worker = hub, worker
        hub.blobs.put_bytes(b"suite")
        self.absorber = made(
            hub, worker, self.blob, family="CPU_TEST", fingerprint=b"F" * 32,  # type: ignore[arg-type]
            evaluator=more.pop("evaluator", LEARN), **more,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def blob(self, cid: Cid, *, most_bytes: int | None = None) -> AsyncIterator[Path]:
        yield self.hub.blobs.path(cid)

    def ask(self, source: str = "file:/m", steps: int = 5, licence_ok: bool = False) -> str:
        return self.absorber.requests.add(source, steps=steps, rule="few-spike/1", licence_ok=licence_ok).id

    def next(self, limit_s: float = 5.0) -> bool:
        async def main() -> bool:
            with trio.fail_after(limit_s):
                return await self.absorber._next()

        return trio.run(main)

    def stage(self, name: str) -> tuple[str, str]:
        request = self.absorber.requests.get(name)
        assert request is not None
        return request.stage, request.text


@pytest.fixture
def world() -> AbsorbWorld:
    world = AbsorbWorld(5)
    world.populate("ann", "ben")
    world.absorb_task(data=Cid.of(b"suite", RAW))
    world.run(2)
    return world


def test_requests_outlast_their_writer_and_come_in_order(tmp_path: Path) -> None:
    home = Home(tmp_path / "1").create()
    first = Requests(home).add("file:/a", steps=5, rule="few-spike/1", licence_ok=False)
    Requests(home).add("file:/b", steps=7, rule="rate/1", licence_ok=True)
    requests = Requests(home)
    (home.work / "absorb" / "0.json").write_text("{not json")
    assert [request.source for request in requests.all()] == ["file:/a", "file:/b"]
    assert requests.next() == first
    requests.move(first, "failed", "no such file")
    following = requests.next()
    assert following is not None and (following.source, following.licence_ok) == ("file:/b", True)
    with pytest.raises(UsageError):
        requests.add(" ", steps=5, rule="rate/1", licence_ok=False)


def test_a_request_becomes_a_claim_with_its_files_as_blobs(
    world: AbsorbWorld, hub_in: HubIn, tmp_path: Path
) -> None:
    bench = Bench(hub_in(world, "ann"), FakeWorker(tmp_path / "w"))
    name = bench.ask()
    assert bench.next()
    assert bench.stage(name)[0] == "published", bench.stage(name)
    (record,) = bench.hub.own("absorption")
    body = record.body
    assert [source for source, _ in body.sources] == ["config.json", "weights/model.bin"]
    assert all(bench.hub.blobs.has(cid) for cid in (body.weights, *(cid for _, cid in body.sources)))
    assert (body.outcome, body.head, body.sparsity_ppm, body.layers) == ("kept", "embedder", 750_000, 2)
    assert body.metric == sum(bench.worker.losses[:16]) // 64
    assert bench.absorber.runs.get(body.state_root) is not None, (
        "secrets are kept before the claim is published"
    )
    assert not bench.next(), "nothing else is to be done"
    assert bench.worker.ops() == ["source", "inspect", "absorb"]
    view = type(bench.hub.view)(bench.hub.records)
    assert record.cid not in view.notes


def test_what_the_mesh_has_is_not_converted_again(world: AbsorbWorld, hub_in: HubIn, tmp_path: Path) -> None:
    bench = Bench(hub_in(world, "ann"), FakeWorker(tmp_path / "w"))
    bench.ask()
    bench.next()
    again = bench.ask()
    bench.next()
    (record,) = bench.hub.own("absorption")
    stage, text = bench.stage(again)
    assert stage == "refused" and f"already absorbed by {record.cid}" in text
    assert bench.worker.ops().count("absorb") == 1
    other = bench.ask(steps=7)
    bench.next()
    assert bench.stage(other)[0] == "published", "other time steps are other work"


def test_a_model_without_a_licence_is_not_shared_unasked(
    world: AbsorbWorld, hub_in: HubIn, tmp_path: Path
) -> None:
    bench = Bench(hub_in(world, "ann"), FakeWorker(tmp_path / "w", licence="unknown"))
    refused, allowed = bench.ask(), bench.ask(licence_ok=True)
    bench.next()
    stage, text = bench.stage(refused)
    assert stage == "failed" and "--licence-ok" in text and not bench.hub.own("absorption")
    bench.next()
    assert bench.stage(allowed)[0] == "published"


def test_a_source_that_cannot_be_had_is_told_and_ends_nothing(
    world: AbsorbWorld, hub_in: HubIn, tmp_path: Path
) -> None:
    bench = Bench(hub_in(world, "ann"), FakeWorker(tmp_path / "w"))

    def fault(op: str) -> None:
        if op == "source":
            raise WorkerRefused(op=op, kind="data", detail="there is no such package")

    bench.worker.fault = fault
    name = bench.ask()
    bench.next()
    assert bench.stage(name) == ("failed", "there is no such package")
    assert not (bench.hub.home.work / f"absorb-{name}").exists()


def test_a_request_that_always_ends_the_node_is_given_up(
    world: AbsorbWorld, hub_in: HubIn, tmp_path: Path
) -> None:
    bench = Bench(hub_in(world, "ann"), FakeWorker(tmp_path / "w"))

    def fault(_op: str) -> None:
        raise KeyboardInterrupt

    bench.worker.fault = fault
    name = bench.ask()
    for _ in range(absorbing.TRIES_MAX):
        with pytest.raises(KeyboardInterrupt):
            bench.next()
    assert bench.stage(name)[0] != "failed"
    bench.next()
    assert bench.stage(name)[0] == "failed"


def test_a_trusted_node_publishes_the_suite_where_there_is_none(hub_in: HubIn, tmp_path: Path) -> None:
    world = AbsorbWorld(5)
    world.populate("ann", "ben")
    bench = Bench(hub_in(world, "ann"), FakeWorker(tmp_path / "w"), evaluator=b"E" * 32)
    bench.ask()
    with pytest.raises(trio.TooSlowError):
        bench.next(0.5)  # it waits for the task to be acknowledged
    (task,) = bench.hub.own("task")
    limits = {"bytes_free": 256 * 10**6, "bytes_max": 4 * 10**9, "ops_free": 10**9, "ops_max": 16 * 10**9}
    assert task.body.spec == {"kind": "absorption", "probes": "genre", "items_text": 64, **limits}
    assert (task.body.blocks, task.body.segments) == (gate.BLOCKS, gate.SEGMENTS)
    with pytest.raises(trio.TooSlowError):
        bench.next(0.2)
    assert len(bench.hub.own("task")) == 1


def test_duties_on_absorptions_are_computed_from_the_named_files(
    world: AbsorbWorld, hub_in: HubIn, tmp_path: Path
) -> None:
    """Node ann publishes with one hub; ben, drawn, verifies with another."""
    author = Bench(hub_in(world, "ann"), FakeWorker(tmp_path / "w"))
    author.ask()
    author.next()
    world.nodes["ben"].kind = world.nodes["root"].kind = "idle"
    record = world.write(world.nodes["ann"], author.hub.own("absorption")[0].body)
    world.run(3)
    hub = hub_in(world, "ben")
    claim = hub.view.claims[record.cid]
    assert hub.me in claim.probes, claim.reason
    for cid in (record.body.weights, *(cid for _, cid in record.body.sources), Cid.of(b"suite", RAW)):
        hub.blobs.put_bytes(author.hub.blobs.read(cid))
    worker = FakeWorker(tmp_path / "v")

    async def fetch(cid: Cid, most_bytes: int | None = None) -> Path:
        return hub.blobs.path(cid)

    def judge(absorber: bytes) -> Verifier:
        return Verifier(hub, worker, fetch, lambda _: None, harness=h("eval"), absorber=absorber)  # type: ignore[arg-type]

    (duty,) = [duty for duty in duties(hub.view, hub.me) if duty.what == "probe"]
    assert not judge(b"another version")._ours(duty)
    verifier = judge(LEARN)
    assert verifier._ours(duty)
    trio.run(verifier._perform, duty)
    (commit,) = hub.own("attest_commit")
    kept = verifier.evidence.get(commit.body.digest)
    assert kept is not None and kept["params"] == h(worker.shard).hex()
    assert [block for block, _ in kept["losses"]] == list(duty.probe.blocks) and len(duty.probe.blocks) == 120
    assert {op for op in worker.ops()} == {"measure", "redo"}
    assert not list((hub.home.work / "absorb-cache").glob("source-*")), "links to sources are gone afterwards"


def test_a_stale_claim_is_measured_again_by_itself(world: AbsorbWorld, hub_in: HubIn, tmp_path: Path) -> None:
    bench = Bench(hub_in(world, "ann"), FakeWorker(tmp_path / "w"))
    bench.ask()
    bench.next()
    (record,) = bench.hub.own("absorption")
    view = bench.hub.view
    trio.run(bench.hub.refresh)
    view = bench.hub.view
    standing = bank.Standing(record.cid, record.author, "text", None, bank.STALE, "", (), 0)
    claim = Claim(record.cid, record, view.tasks[record.body.task], 0)
    claim.settle(ACCEPTED, 1, "as others found")
    view.claims[record.cid], view.bank.standings[record.cid] = claim, standing
    view.absorbed[work_of(record.body)], view.measured[work_of(record.body)] = record.cid, 1
    bench.worker.losses = losses("another state", 5_000_000, {0: 0, 1: 0})
    assert bench.next()
    first, again = bench.hub.own("absorption")
    assert (again.body.operator, again.body.outcome, again.body.params) == (
        "measure",
        "discarded",
        first.body.params,
    )
    assert again.body.loss_root != first.body.loss_root
    assert again.body.state_root == first.body.state_root or bench.absorber.runs.get(again.body.state_root)
    assert not bench.next(), "the new claim is not acknowledged yet, and no reason for a third"


def test_a_verified_member_is_refined_now_and_then(
    world: AbsorbWorld, hub_in: HubIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "TURN_ROUNDS", 1)
    record = world.absorb("ben", "minilm")
    view = world.run(8)
    while not merging.is_my_turn(view, world.nodes["ann"].key.public, f"refine/{record.cid}"):
        view = world.run(1)
    assert view.bank.members() == (record.cid,)
    bench = Bench(hub_in(world, "ann"), FakeWorker(tmp_path / "w"))
    for name in ("minilm", "suite"):
        bench.hub.blobs.put_bytes(name.encode())
    bench.hub.blobs.put_bytes(world.shards[record.cid].params)
    assert not bench.next(), "not at once"
    bench.absorber._rest_until_s = time.monotonic() - 1
    assert bench.next()
    (found,) = bench.hub.own("refinement")
    assert (found.body.base, found.body.sources, found.body.state) == (
        record.cid,
        record.body.sources,
        (record.cid,),
    )
    params = bench.worker.calls[-1][1]
    assert params["base_cid"] == str(record.cid) and Path(params["base_path"]).is_file()
    assert not bench.next()


def test_only_the_author_retracts(world: AbsorbWorld, hub_in: HubIn, tmp_path: Path) -> None:
    record = world.absorb("ben", "minilm")
    world.run(2)
    ann, ben = hub_in(world, "ann"), hub_in(world, "ben")
    with pytest.raises(NotAllowed):
        retract_own(ann, str(record.cid), "")
    with pytest.raises(NotFound):
        retract_own(ben, str(world.task), "")
    with pytest.raises(UsageError):
        retract_own(ben, "…", "")
    assert retract_own(ben, str(record.cid), "why not").body == bodies.Retract(
        target=record.cid, why="why not"
    )


@pytest.mark.parametrize("cheat", sorted(ABSORB_CHEATS))
def test_every_cheat_claims_something_else_than_the_truth(
    cheat: str, world: AbsorbWorld, hub_in: HubIn, tmp_path: Path
) -> None:
    honest = Bench(hub_in(world, "ann"), FakeWorker(tmp_path / "w", gains={0: 5, 1: 0}))
    liar = Bench(hub_in(world, "ben"), FakeWorker(tmp_path / "w", gains={0: 5, 1: 0}), ABSORB_CHEATS[cheat])
    said = []
    for bench in (honest, liar):
        bench.ask(f"file:/{'m' * 5_000}"[:1_900])
        bench.next()
        (record,) = bench.hub.own("absorption")
        said.append(record.body)
    true, false = said
    differs = {
        "weight": true.weights != false.weights and true.params == false.params,
        "source": true.sources != false.sources and true.loss_sum == false.loss_sum,
        "fidelity": false.metric < true.metric // 9,
        "probes": false.metric == true.metric and false.loss_sum < true.loss_sum,
    }
    assert differs[cheat]


def test_the_command_line_keeps_a_wish_without_a_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from spore_borg.cli import call

    model = tmp_path / "model.bin"
    model.write_bytes(b"m")
    arguments = ["--home", str(tmp_path / "h"), "absorb", f"file:{model}", "--steps", "7", "--json"]
    assert call(arguments) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["stage"], value["source"], value["steps"]) == ("queued", f"file:{model}", 7)
    (request,) = Requests(Home(tmp_path / "h")).all()
    assert request.id == value["id"]
    assert call([*arguments, "--local"]) == 2, "--local needs --out"
