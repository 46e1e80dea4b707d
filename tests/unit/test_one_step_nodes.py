"""The one-step jury as nodes carry it out: real training, two workers of different fingerprints, five nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from spore_borg.errors import BorgError
from spore_borg.node.drawer import pack_run
from spore_borg.node.hub import Hub
from spore_borg.node.janitor import disposable
from spore_borg.node.tasks import task_body, task_spec
from spore_borg.node.verifier import Verifier
from spore_borg.policies import prover
from spore_borg.policies.verifier import duties
from spore_borg.records import bodies
from spore_borg.records.cid import Cid
from spore_borg.runner.client import Worker
from spore_borg.store.blobs import Blobs
from spore_borg.views.evidence import CLEAR_PPM, FRAUD_PPM, REPLAY
from spore_borg.views.reduce import View
from spore_borg.views.verdicts import ACCEPTED, REFUTED, Claim
from tests.world import SimNode, World
from workspace import data, evaluate, harness, tasks


class Slanderer(Verifier):
    """Says of every segment that it went another way."""

    async def _call(self, op: str, params: dict[str, Any], unusable: dict[str, Any] | None) -> dict[str, Any]:
        answer = await super()._call(op, params, unusable)
        if op == "replay":
            answer["end"] = "ab" * 32
        if op == "trace":
            answer["digests"][5:] = ["cd" * 32] * len(answer["digests"][5:])
        return answer


class Liar(Verifier):
    """Trained by another recipe than it signed, and shows just that training when it is asked."""

    async def _call(self, op: str, params: dict[str, Any], unusable: dict[str, Any] | None) -> dict[str, Any]:
        return await super()._call(op, {**params, "recipe": lying(params["recipe"])}, unusable)


def lying(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with a learning rate that is 5 % lower."""
    return {**recipe, "lr": int(recipe["lr"]) * 95 // 100}


class Mesh:
    """Simulated epochs around real verifiers: each node has its own blobs, and fetches from the others.

    Args:
        workers: by the letter that stands for a fingerprint.
    """

    def __init__(self, room: Path, workers: dict[str, Worker]) -> None:
        self.room, self.workers, self.world = room, workers, World()
        self.desks: dict[str, SimpleNamespace] = {}
        self.verifiers: dict[str, Verifier] = {}
        self.letters: dict[str, str] = {}
        self.done: set[tuple[object, ...]] = set()

    def settle_in(self, kinds: dict[str, type[Verifier]], **letters: str) -> None:
        """Nodes by name with the letter of their worker; the first is the root."""
        self.letters = letters
        for name, letter in letters.items():
            node = SimNode(name, 1, fingerprint=bytes.fromhex(self.workers[letter].about["fingerprint"]))
            if self.world.nodes:
                self.world.join(node, self.world.invite(next(iter(self.world.nodes.values()))))
            else:
                self.world.found(node)
                self.world.tick()
            room = self.room / name
            blobs = Blobs(room / "blobs")
            desk = SimpleNamespace(
                home=SimpleNamespace(work=room), me=node.key.public, blobs=blobs, view=None, events=[],
                event=lambda *said, **_: None, write=lambda body, node=node: self.world.write(node, body),
            )  # fmt: skip
            self.desks[name] = desk
            kind = kinds.get(name, Verifier)
            self.verifiers[name] = kind(
                cast(Hub, desk), self.workers[letter], self.fetch(blobs), lambda _: None,
                harness=harness.harness_digest(),
            )  # fmt: skip

    def fetch(self, blobs: Blobs) -> Callable[[Cid], Any]:
        async def bring(cid: Cid, _most_bytes: int | None = None) -> Path:
            for other in (desk.blobs for desk in self.desks.values()):
                if not blobs.has(cid) and other.has(cid):
                    assert blobs.put_file(other.path(cid)) == cid
            if not blobs.has(cid):
                raise BorgError(detail="nobody has this blob")
            return blobs.path(cid)

        return bring

    def begin(self, root: str) -> None:
        """The task, and rounds until everybody is trusted."""
        path = self.room / "data.safetensors"
        data.build(path)
        spec = tasks.spec(
            "pico", budget_flops=2_000_000_000, floor_flops_per_step=1_000_000, blocks=4, segments=4
        )
        spec["baseline"] |= {"depth": 1, "width": 16, "heads": 1, "batch": 2}
        spec["val_bytes"] = evaluate.val_bytes(spec, data.load(path))
        cid = self.desks[root].blobs.put_file(path)
        body = task_body(spec, cid, harness.harness_digest())
        self.world.task = self.world.write(self.world.nodes[root], body).cid
        self.world.run(3)

    async def train(self, name: str, recipe_of: Callable[[dict[str, Any]], dict[str, Any]]) -> Cid:
        """An experiment: signed with the task's baseline, trained by what ``recipe_of`` makes of it."""
        world, node, task = self.world, self.world.nodes[name], self.world.view().tasks[self.world.task]
        recipe = dict(task.baseline)
        plan = world.declare(node, 0, recipe=recipe)
        while (given := world.seed_of(plan)) is None:
            world.epoch += 1
            for sealing in world.nodes.values():
                world.seal(sealing, world.view())
        answer = await self.workers[self.letters[name]].call(
            "train",
            {
                "task": task_spec(task), "recipe": recipe_of(recipe), "seed": int.from_bytes(given, "big"),
                "out_dir": str(self.room / "run"),
                "data_path": str(await self.verifiers[name]._fetch(task.data)),
            },
        )  # fmt: skip
        octets, blobs = bytes.fromhex, self.desks[name].blobs
        run = prover.Run(
            tuple(answer["losses"]), tuple(map(octets, answer["digests"])), octets(answer["params"]),
            octets(answer["tail"]), b"l" * 32, b"s" * 32,
        )  # fmt: skip
        facts = prover.Facts(
            recipe, "test", "because", (), plan.intent.cid, given, "CPU_TEST", node.fingerprint,
            answer["params_count"], answer["steps"], answer["flops"], 1, (),
        )  # fmt: skip
        weights = blobs.put_file(Path(answer["weights_path"]))
        states = [blobs.put_file(Path(path)) for path in answer["state_paths"][1:]]
        body = prover.claim_body(world.task, task, facts, run, weights, states, "kept")
        assert body.state_root is not None
        self.verifiers[name].runs.put(body.state_root, pack_run(run))
        return world.write(node, body).cid

    async def verdict(self, experiment: Cid, epochs: int = 20) -> tuple[View, Claim]:
        """Let everyone do its duties until there is a verdict."""
        view = View(self.world.records)
        for _ in range(epochs):
            self.world.epoch += 1
            for name, verifier in self.verifiers.items():
                self.desks[name].view = view
                for duty in duties(view, self.desks[name].me):
                    key = (name, duty.what, duty.claim, duty.named)
                    if key not in self.done:
                        self.done.add(key)
                        await verifier._perform(duty)
            for node in self.world.nodes.values():
                self.world.seal(node, view)
            view = View(self.world.records)
            if experiment in view.claims and view.claims[experiment].verdict:
                return view, view.claims[experiment]
        raise AssertionError(view.claims[experiment].reason)


def errors_of(claim: Claim) -> list[int]:
    """What the jury measured, in millionths."""
    reveals = [item.reveal.body for item in claim.jury.values() if item.reveal is not None]
    return [ppm for reveal in reveals for _, ppm in reveal.steps]


@pytest.mark.parametrize("case", ["honest", "liar"])
def test_nodes_of_another_class_judge_training(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
        async with Worker(device="cpu") as fast, Worker(device="cpu") as plain:
            first = (await fast.call("hello"))["fingerprint"]
            monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
            if (await plain.call("hello"))["fingerprint"] == first:
                pytest.skip("this processor computes alike with and without vector instructions")
            mesh = Mesh(tmp_path, {"F": fast, "G": plain})
            kinds: dict[str, type[Verifier]] = {"ben": Slanderer} if case == "honest" else {"ann": Liar}
            mesh.settle_in(kinds, root="G", ann="F", ben="F", cleo="G", dora="G")
            mesh.begin("root")
            experiment = await mesh.train("ann", dict if case == "honest" else lying)
            view, claim = await mesh.verdict(experiment)
            print(case, claim.reason, errors_of(claim))
            assert claim.named is not None and claim.named[0] == REPLAY
            assert len(errors_of(claim)) == 3 * len(claim.steps)
            if case == "honest":
                assert claim.verdict == ACCEPTED and max(errors_of(claim)) <= CLEAR_PPM
            else:
                assert claim.verdict == REFUTED and min(errors_of(claim)) >= FRAUD_PPM
                assert view.ledger.account(claim.author).banned
            assert claim.states is not None
            asked = {blob for _, before, after in claim.states.body.states for blob in (before, after)}
            assert all(mesh.desks["ann"].blobs.has(blob) for blob in asked)
            assert not any(mesh.desks["cleo"].blobs.has(blob) for blob in asked)
            assert not asked & set(disposable(view))  # the verdict is young
            mesh.world.run(6)
            assert asked <= set(disposable(View(mesh.world.records)))

    trio.run(main)


def test_the_bounds_of_records_fit_what_the_harness_says() -> None:
    assert harness.PPM_MAX == bodies.STEP_PPM_MAX
