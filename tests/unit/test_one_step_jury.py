"""Disputes about training that nodes of other hardware judge by single steps: in simulation, and with two workers."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from spore_borg.node.drawer import pack_found, unpack_found
from spore_borg.policies.prover import Found
from spore_borg.policies.verifier import Duty, duties
from spore_borg.records import bodies
from spore_borg.records.cid import RAW, Cid
from spore_borg.records.envelope import Record
from spore_borg.runner.client import Worker
from spore_borg.views import onestep
from spore_borg.views.evidence import OUTCOME, REPLAY
from spore_borg.views.reduce import View
from spore_borg.views.rows import tables
from spore_borg.views.verdicts import ACCEPTED, REFUTED, VOID, Claim
from tests.world import SEGMENTS, STEPS, SimNode, Truth, World, h
from workspace import data, evaluate, harness, tasks

LENGTH = STEPS // SEGMENTS
HONEST_PPM, LIE_PPM, NOISE_PPM = 5, 111_111, 400


class StepWorld(World):
    """A world with two fingerprints in which nodes can also tell and judge single steps.

    Attributes:
        slander: verifiers that contradict every segment, whatever it is.
        silent: authors that tell no trace, or publish no states.
        noisy: liars whose first differing step is within what hardware explains.
        odd: error in millionths that jurors find where nobody lied.
    """

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self.slander: set[str] = set()
        self.silent: dict[str, str] = {}
        self.noisy: set[str] = set()
        self.odd = HONEST_PPM

    def settle_in(self, **fingerprints: str) -> None:
        """Nodes by name with a letter for their fingerprint; the first is the root."""
        (root, letter), *others = fingerprints.items()
        first = SimNode(root, self.seed, fingerprint=letter.encode() * 32)
        self.found(first)
        self.tick()
        for name, letter in others:
            self.join(SimNode(name, self.seed, fingerprint=letter.encode() * 32), self.invite(first))
        self.run(3)

    def author(self, claim: Claim) -> SimNode:
        return next(node for node in self.nodes.values() if node.key.public == claim.author)

    def perform(self, node: SimNode, view: View) -> None:
        super().perform(node, view)
        for duty in duties(view, node.key.public):
            claim, where = view.claims[duty.experiment], (duty.claim, (duty.what, duty.named))
            if duty.what in ("trace", "states") and where not in node.found:
                if self.silent.get(node.name) == duty.what:
                    continue
                node.found[where] = (b"", Found(None, (), (), 0), claim.cid)
                self.write(node, self.trace(node, claim) if duty.what == "trace" else self.states(claim))

    def trace(self, node: SimNode, claim: Claim) -> bodies.Trace:
        """The states of the disputed segment as a node tells them."""
        assert claim.named is not None
        segment, truth = claim.named[1], self.truth[claim.target.cid]
        digests = self.true_trace(truth, segment)
        if node.name == self.author(claim).name and node.kind == "process":
            opened = node.runs[claim.target.cid].digests
            made_up = [h("made up", segment, step) for step in range(1, LENGTH)]
            digests = (opened[segment], *made_up, opened[segment + 1])
        elif self.author(claim).kind == "process" and segment:
            digests = (h("made up", segment), *digests[1:])
        if node.name in self.slander:
            digests = (*digests[:4], *(h("slander", step) for step in range(4, LENGTH + 1)))
        return bodies.Trace(target=claim.cid, segment=segment, digests=digests)

    def true_trace(self, truth: Truth, segment: int) -> tuple[bytes, ...]:
        first = segment * STEPS // SEGMENTS
        states = [truth.digest(first + step) for step in range(LENGTH + 1)]
        return (*states[:-1], self.last_digest(truth)) if segment == SEGMENTS - 1 else tuple(states)

    def opening(self, node: SimNode, claim: Claim) -> bodies.Open:
        """A liar opens the inner states of its own made-up training."""
        body = super().opening(node, claim)
        if node.kind != "process":
            return body
        inner = tuple((segment, step, h("made up", segment, step)) for segment, step, _ in body.inner)
        return dataclasses.replace(body, inner=inner)

    def states(self, claim: Claim) -> bodies.TraceStates:
        assert claim.named is not None
        steps = [step for step in claim.steps if step]
        blobs = {step: Cid.of(h("state blob", step), RAW) for step in range(LENGTH + 1)}
        given = tuple((step, blobs[step - 1], blobs[step]) for step in steps)
        return bodies.TraceStates(target=claim.cid, segment=claim.named[1], states=given)

    def recompute(self, node: SimNode, duty: Duty, view: View) -> Found:
        claim = view.claims[duty.experiment]
        if duty.steps:
            return Found(None, (), (), 1, tuple((step, self.error(claim, step)) for step in duty.steps))
        found = super().recompute(node, duty, view)
        if node.name not in self.slander:
            return found
        segments = tuple(
            (k, step, start, inner, h("slander", k)) for k, step, start, inner, _ in found.segments
        )
        return Found(found.params, found.losses, segments, 1)

    def error(self, claim: Claim, step: int) -> int:
        liar = self.author(claim)
        if liar.kind != "process":
            return self.odd
        return NOISE_PPM if liar.name in self.noisy and step <= min(claim.steps) else LIE_PPM


def kinds(view: View, kind: str) -> list[Record]:
    return [record for record in view.dag.records if record.kind == kind]


def first_of(view: View, claim: Claim) -> Claim:
    """The claim before it was announced again."""
    return view.by_instance[claim.target.cid]


def mixed(seed: int = 1) -> StepWorld:
    """An author with one twin; a root and two more nodes of another class."""
    world = StepWorld(seed)
    world.settle_in(root="G", ann="F", ben="F", cleo="G", dora="G")
    return world


def test_an_honest_author_is_cleared_by_nodes_of_another_class() -> None:
    world = mixed()
    world.slander = {"ben"}
    view, claim = world.claim("ann", epochs=16)
    assert claim.verdict == ACCEPTED, claim.reason
    assert claim.named is not None and claim.named[0] == REPLAY
    assert len(claim.steps) == 1 + onestep.STEPS_DRAWN and claim.steps[0] == 4  # where the slander begins
    assert {record.author for record in kinds(view, "trace")} == {
        world.nodes[n].key.public for n in ("ann", "ben")
    }
    judged = {world.nodes[n].key.public for n in ("root", "cleo", "dora")}
    assert {who for who, word in claim.ruling.items() if word == "clear"} == judged
    rules = {(entry.node, entry.rule) for entry in view.ledger.entries}
    assert (world.nodes["ben"].key.public, "wrong accusation") in rules
    assert {(who, "jury") for who in judged} <= rules
    rows = tables(
        view, {record.cid: at for at, record in enumerate(view.dag.records)}, world.nodes["root"].key.public
    )
    notes = [row["probe"] for row in rows["attestation"] if row["jury"]]
    assert len(notes) == 3
    assert all(
        f"of segment {claim.named[1]}; largest relative error {HONEST_PPM} ppm" in note for note in notes
    )


def test_a_liar_is_convicted_by_nodes_of_another_class() -> None:
    world = mixed()
    world.nodes["ann"].kind = "process"
    view, claim = world.claim("ann", epochs=16)
    assert claim.verdict == REFUTED, claim.reason
    assert "steps" in claim.reason and kinds(view, "trace_states")
    assert view.ledger.account(claim.author).banned
    assert not view.ledger.account(world.nodes["ben"].key.public).banned


def test_a_harmless_first_difference_does_not_cover_for_the_steps_after_it() -> None:
    world = mixed()
    world.nodes["ann"].kind, world.noisy = "process", {"ann"}
    _, claim = world.claim("ann", epochs=16)
    assert claim.verdict == REFUTED, claim.reason


def test_a_false_accusation_of_one_thing_does_not_cover_for_another() -> None:
    world = mixed()
    world.nodes["ann"].kind, world.nodes["cleo"].kind = (
        "process",
        "lazy",
    )  # cleo contradicts some block, wrongly
    _, claim = world.claim("ann", epochs=18)
    assert [tier for tier, _ in claim.cleared] == [OUTCOME]
    assert claim.verdict == REFUTED and claim.named is not None and claim.named[0] == REPLAY


def test_who_contradicted_a_cleared_thing_pays_for_it_after_later_disputes() -> None:
    world = mixed()
    world.slander, world.nodes["cleo"].kind = {"ben"}, "lazy"
    view, claim = world.claim("ann", epochs=18)
    assert claim.verdict == ACCEPTED and [tier for tier, _ in claim.cleared] == [OUTCOME, REPLAY]
    wrong = {entry.node for entry in view.ledger.entries if entry.rule == "wrong accusation"}
    assert wrong == {world.nodes["ben"].key.public, world.nodes["cleo"].key.public}


def test_an_error_between_the_bounds_is_void() -> None:
    world = mixed()
    world.slander, world.odd = {"ben"}, 5_000
    view, claim = world.claim("ann", epochs=16)
    assert first_of(view, claim).steps and first_of(view, claim).verdict == VOID


@pytest.mark.parametrize("what", ["trace", "states"])
def test_silence_clears_nobody_and_the_whole_run_is_replayed_next_time(what: str) -> None:
    world = mixed()
    world.slander, world.silent = {"ben"}, {"ann": what}
    view, claim = world.claim("ann", epochs=26)
    first = first_of(view, claim)
    assert (first.verdict, first.evaded) == (VOID, True), first.reason
    assert claim.announced and claim.evaded


def test_a_trace_that_contradicts_the_opening_refutes_its_author() -> None:
    world = mixed()
    world.slander = {"ann", "ben"}
    _, claim = world.claim("ann", epochs=16)
    assert claim.verdict == REFUTED and "own trace" in claim.reason


def test_two_twins_that_are_awake_decide_without_traces() -> None:
    world = StepWorld()
    world.settle_in(root="G", ann="F", ben="F", carl="F", dora="G")
    world.nodes["ann"].kind = "process"
    view, claim = world.claim("ann", epochs=14)
    assert claim.verdict == REFUTED and not claim.steps
    assert not kinds(view, "trace")


def test_two_nodes_alone_stay_split() -> None:
    world = StepWorld()
    world.settle_in(root="F", ann="F")
    world.slander = {"root"}
    view, claim = world.claim("ann", epochs=8)
    assert first_of(view, claim).verdict == VOID and not kinds(view, "trace")


def test_order_and_duplicates_of_records_change_nothing() -> None:
    world = mixed()
    world.slander = {"ben"}
    view, _ = world.claim("ann", epochs=14)
    seed = random.randrange(1 << 30)
    print("seed", seed)
    shuffled = [*world.records, *random.Random(seed).sample(world.records, 30)]
    random.Random(seed).shuffle(shuffled)
    assert View(shuffled).rounds == view.rounds


def test_steps_are_the_first_difference_and_later_ones_by_lot() -> None:
    own = tuple(h(step) for step in range(41))
    other = (*own[:12], *(h("x", step) for step in range(12, 41)))
    assert onestep.first_difference(own, other) == 12
    assert onestep.first_difference(own, own) is onestep.first_difference(own, own[:5]) is None
    picked = onestep.pick(own, [other], b"chance", b"claim")
    assert picked[0] == 12 and len(picked) == 4 and picked == tuple(sorted(set(picked)))
    assert len({onestep.pick(own, [other], bytes([n]), b"claim") for n in range(8)}) > 4
    assert len(onestep.pick(own, [], b"chance", b"claim")) == 3  # nobody followed up: only by lot
    assert onestep.pick(own, [(h(0, 0), *own[1:])], b"c", b"c")[0] == 0  # the start state
    assert onestep.pick(own, [(*own[:40], h("y"))], b"c", b"c") == (40,)  # no step after the last
    many = [(*own[:n], *(h("z", step) for step in range(n, 41))) for n in range(1, 20)]
    assert len(onestep.pick(own, many, b"chance", b"claim")) == bodies.JURY_STEPS_MAX
    assert not onestep.traceable(0, 4, 4 * bodies.TRACE_STATES_MAX)
    assert onestep.traceable(0, 4, 4 * bodies.TRACE_STATES_MAX - 4)


def test_words_follow_from_the_largest_error() -> None:
    assert onestep.word((2, 5), ((2, 3), (5, 1_000))) == "clear"
    assert onestep.word((2, 5), ((2, 3), (5, 1_001))) == onestep.word((2,), ((2, 9_999),)) == "between"
    assert onestep.word((2, 5), ((2, 10_000), (5, 3))) == "fraud"
    assert onestep.word((2, 5), ((2, 3),)) == onestep.word((2,), ((3, 0),)) == onestep.word((), ()) == ""


def test_a_drawer_keeps_steps() -> None:
    found = Found(None, (), (), 7, ((3, 12), (9, 0)))
    assert unpack_found(pack_found(b"n" * 16, found)) == (b"n" * 16, found)


# ---- two workers of different fingerprints


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A run of about 60 steps in 4 segments."""
    path = tmp_path / "data.safetensors"
    data.build(path)
    task = tasks.spec(
        "pico", budget_flops=2_000_000_000, floor_flops_per_step=1_000_000, blocks=4, segments=4
    )
    task["baseline"] |= {"depth": 1, "width": 16, "heads": 1, "batch": 2}
    task["val_bytes"] = evaluate.val_bytes(task, data.load(path))
    return {"task": task, "recipe": task["baseline"], "seed": 7, "data_path": str(path)}


async def told(
    author: Worker, job: dict[str, Any], start: str | None, save: list[int], out: Path
) -> dict[str, Any]:
    """What an author that trains by ``job`` tells about segment 2."""
    return await author.call(
        "trace", {**job, "segment": 2, "state_path": start, "save": save, "out_dir": str(out)}
    )


def test_another_instruction_set_tells_honest_training_from_a_lie(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = {**job, "recipe": {**job["recipe"], "lr": int(job["recipe"]["lr"]) * 95 // 100}}

    async def main() -> None:
        monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
        async with Worker(device="cpu") as author, Worker(device="cpu") as juror:
            fingerprint = (await author.call("hello"))["fingerprint"]
            monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
            if (await juror.call("hello"))["fingerprint"] == fingerprint:
                pytest.skip("this processor computes alike with and without vector instructions")
            done = await author.call("train", {**job, "out_dir": str(tmp_path / "run")})
            start = done["state_paths"][2]
            honest = await told(author, job, start, [], tmp_path)
            assert [honest["digests"][0], honest["digests"][-1]] == done["digests"][2:4]
            made_up = await told(author, lie, start, [], tmp_path)
            other = await told(juror, job, start, [], tmp_path)
            traces = [tuple(map(bytes.fromhex, t["digests"])) for t in (honest, made_up, other)]
            assert onestep.first_difference(traces[0], traces[2])  # a segment differs where a step does not
            steps = onestep.pick(traces[0], [traces[1]], b"chance", b"claim")
            save = sorted({*steps, *(step - 1 for step in steps)})
            errors: dict[str, list[tuple[int, int]]] = {}
            for name, teller in (("honest", job), ("lie", lie)):
                saved = dict((await told(author, teller, start, save, tmp_path / name))["saved"])
                errors[name] = []
                for step in steps:
                    states = {"before_path": saved[step - 1], "after_path": saved[step]}
                    answer = await juror.call("step_distance", {**job, "segment": 2, "step": step, **states})
                    digests = (honest if name == "honest" else made_up)["digests"]
                    assert (answer["before"], answer["after"]) == (digests[step - 1], digests[step])
                    errors[name].append((step, answer["ppm"]))
            print(errors)
            assert onestep.word(steps, tuple(errors["honest"])) == "clear"
            assert onestep.word(steps, tuple(errors["lie"])) == "fraud"
            first = await juror.call("step_distance", {**job, "segment": 0, "step": 0})
            assert first["before"] == done["digests"][0]  # what follows from the seed is the same everywhere

    trio.run(main)


def test_a_lie_in_one_kind_of_tensor_does_not_hide_behind_another() -> None:
    before = {"p.a": np.zeros(4, np.float32), "m.a": np.zeros(4, np.float32)}
    given = {"p.a": np.full(4, 1e-3, np.float32), "m.a": np.full(4, 1e3, np.float32)}
    own = {**given, "p.a": np.full(4, 0.9e-3, np.float32)}
    assert harness.relative_ppm(own, given, before) == 100_000
    assert harness.relative_ppm(given, given, before) == 0
    assert harness.relative_ppm(before, before, before) == 0
    assert harness.relative_ppm(own, before, before) == harness.PPM_MAX == bodies.STEP_PPM_MAX
    broken = {**given, "m.a": np.full(4, np.nan, np.float32)}
    assert harness.relative_ppm(own, broken, before) == harness.PPM_MAX
