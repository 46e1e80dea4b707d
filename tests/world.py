"""A small world of simulated nodes for the views: real records, made-up training.

Honest nodes compute from ``truth``; liars claim something else. Everything is seeded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from dataclasses import dataclass, field

from spore_borg.policies import prover
from spore_borg.policies.verifier import Duty, duties
from spore_borg.records import bodies, keys, onion
from spore_borg.records.cid import RAW, Cid
from spore_borg.records.envelope import Record, sign
from spore_borg.records.merkle import state_digest
from spore_borg.views import seeds
from spore_borg.views.reduce import View, invitation_message
from spore_borg.views.settle import recipe_digest
from spore_borg.views.verdicts import Claim

BLOCKS, SEGMENTS, STEPS, VAL_BYTES = 8, 10, 100, 1000
ONION = 256
PROBE_COST = 0.05  # evaluating all blocks, as a part of a run (PROTOCOL §4: 2-7 %)
LIARS = ("metric", "process", "ring")
Recipe = dict[str, int | bool | str]


def h(*parts: object) -> bytes:
    """32 bytes that stand for something computed."""
    return hashlib.sha256(repr(parts).encode()).digest()


@dataclass
class Truth:
    """What training really gives for a recipe and a seed."""

    quality: int
    seed: int
    recipe: bytes

    def losses(self) -> tuple[int, ...]:
        rng = random.Random(self.seed)
        return tuple(self.quality * VAL_BYTES // BLOCKS + rng.randint(-(10**6), 10**6) for _ in range(BLOCKS))

    def digest(self, step: int) -> bytes:
        return h("state", self.recipe, self.seed, step)


@dataclass
class Plan:
    """A declared run that waits for its seed."""

    node: SimNode
    quality: int
    bases: tuple[Cid, ...]
    recipe: Recipe
    intent: Record
    record: Record | None = None  # the experiment
    lie: bool = False


@dataclass
class SimNode:
    """One node: key, onion, its own chain, its secrets."""

    name: str
    seed: int
    # honest, asleep; as an author: metric (fabricates losses), process (lies about training), closed (never opens),
    # skips (its openings pass over ``skipped``), hides (opens no inner step), twists (opens other losses than claimed);
    # ring (fabricates, vouches for its like, accuses the others out of thin air);
    # as a verifier: lazy (evidence out of thin air), mute (commits, never reveals), sham (reveals something else),
    # idle (does not verify), copycat (commits after the opening, to the author's numbers)
    kind: str = "honest"
    fingerprint: bytes = b"F" * 32
    verify_bytes: int = 10**9  # what it takes on, as its join says
    verify_ops: int = 4 * 10**9
    onion_values: onion.Onion = field(init=False)
    key: keys.SigningKey = field(init=False)
    seq: int = 0
    prev: Cid | None = None
    join_epoch: int = 0
    runs: dict[Cid, prover.Run] = field(default_factory=dict)
    found: dict[tuple[Cid, object], tuple[bytes, prover.Found, Cid]] = field(default_factory=dict)
    announced: set[tuple[Cid, int]] = field(default_factory=set)
    opened: set[tuple[Cid, int]] = field(default_factory=set)
    skipped: bytes = b""
    trained: float = 0.0  # own runs computed
    checked: float = 0.0  # the same for others' claims, in runs

    def __post_init__(self) -> None:
        self.key = keys.SigningKey(h("key", self.name, self.seed))
        self.onion_values = onion.Onion(h("onion", self.name, self.seed), ONION)


class World:
    """Nodes that share one set of records, epoch by epoch."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.records: list[Record] = []
        self.heads: set[Cid] = set()
        self.epoch = 0
        self.truth: dict[Cid, Truth] = {}
        self.nodes: dict[str, SimNode] = {}
        self.mesh: Cid | None = None
        self._view: tuple[int, View | None] = (0, None)
        self.plans: list[Plan] = []  # published as soon as their seeds are there

    def write(
        self,
        node: SimNode,
        body: bodies.Body,
        epoch: int | None = None,
        parents: tuple[Cid, ...] | None = None,
    ) -> Record:
        """Sign and publish; by default now and having seen everything."""
        record = sign(
            node.key, body, mesh=self.mesh, seq=node.seq, prev=node.prev,
            epoch=self.epoch if epoch is None else epoch,
            parents=tuple(sorted(self.heads)[:64]) if parents is None else parents,
        )  # fmt: skip
        node.seq, node.prev = node.seq + 1, record.cid
        self.heads -= set(record.past())
        self.heads.add(record.cid)
        self.records.append(record)
        return record

    def found(self, root: SimNode) -> None:
        """Create the mesh, the root's join and a task."""
        self.nodes[root.name] = root
        genesis = bodies.Genesis(
            name="sim", roots=(root.key.public,), time_ms=0, epoch_ms=1000, nonce=b"n" * 16, params={}
        )
        self.mesh = None
        self.mesh = self.write(root, genesis).cid
        self.join(root, None)
        self.task = self.write(
            root,
            bodies.Task(
                name="toy",
                metric="val_bpb",
                direction="min",
                unit="nano-bits/byte",
                sigma=5_000_000,
                gain_min=10_000_000,
                budget_flops=1,
                segments=SEGMENTS,
                blocks=BLOCKS,
                block_tokens=10,
                val_bytes=VAL_BYTES,
                tolerance=1000,
                data=Cid.of(b"data", RAW),
                evaluator=h("eval"),
                spec={},
                baseline={"x": 0},
            ),
        ).cid

    def invite(self, root: SimNode, endowment: int = 3 * bodies.ONE) -> tuple[Cid, keys.SigningKey]:
        one_time = keys.SigningKey(h("invite", self.seed, len(self.records)))
        body = bodies.Invite(key=one_time.public, endowment=endowment, uses=8, until=10**6)
        return self.write(root, body).cid, one_time

    def join(self, node: SimNode, ticket: tuple[Cid, keys.SigningKey] | None) -> None:
        self.nodes[node.name] = node
        node.join_epoch = self.epoch
        invite = None
        if ticket is not None:
            assert self.mesh is not None
            invite = (ticket[0], ticket[1].sign(invitation_message(self.mesh, node.key.public)))
        self.write(
            node,
            bodies.Join(
                family="CPU_TEST",
                device="toy",
                memory_mb=1,
                cores=1,
                fingerprint=node.fingerprint,
                anchor=node.onion_values.anchor,
                role="research",
                agent="sim",
                invite=invite,
                stamp=None,
                verify_bytes=node.verify_bytes,
                verify_ops=node.verify_ops,
            ),
        )

    def declare(
        self,
        node: SimNode,
        quality: int,
        base: Cid | None = None,
        label: object = None,
        recipe: Recipe | None = None,
    ) -> Plan:
        """The intent of a run whose true quality is ``quality`` nano-bits per byte."""
        bases = (base,) if base else ()
        recipe = recipe or {"x": quality if label is None else str(label)}
        body = bodies.Intent(task=self.task, bases=bases, recipe=recipe_digest(recipe), until=self.epoch + 20)
        return Plan(node, quality, bases, recipe, self.write(node, body))

    def seed_of(self, plan: Plan) -> bytes | None:
        """The seed of a declared run, as soon as it is there."""
        assert plan.node.prev is not None, "it has written its intent"
        drawn = seeds.ripe(self.view(), plan.intent, plan.node.prev)
        return drawn.seed if drawn else None

    def experiment(
        self,
        node: SimNode,
        quality: int,
        base: Cid | None,
        label: object = None,
        recipe: Recipe | None = None,
    ) -> Record:
        """Declare a run, let epochs pass until it has a seed, and publish it."""
        return self.publish(self.ripened(self.declare(node, quality, base, label, recipe)))

    def ripened(self, plan: Plan) -> Plan:
        """Let epochs pass until a declared run has a seed."""
        for _ in range(5):
            if self.seed_of(plan) is not None:
                return plan
            self.tick()
        raise AssertionError("a seed ripens within some epochs")

    def publish(self, plan: Plan, **changes: object) -> Record:
        """Run what was declared; liars claim more than its true quality."""
        node, quality, recipe = plan.node, plan.quality, plan.recipe
        given = self.seed_of(plan)
        assert given is not None, "it has a seed"
        seed = int.from_bytes(given, "big")
        truth = Truth(quality, seed, h(sorted(recipe.items())))
        losses, digests = truth.losses(), [truth.digest(k * STEPS // SEGMENTS) for k in range(SEGMENTS)]
        if node.kind in ("metric", "ring"):
            losses = tuple(loss - quality * VAL_BYTES // BLOCKS // 5 for loss in losses)
        if node.kind == "process":
            digests = [h("made up", k) for k in range(SEGMENTS)]
        params, tail = h("params", truth.recipe, seed), h("tail", seed)
        digests.append(state_digest(params, tail))
        run = prover.Run(
            losses, tuple(digests), params, tail, h("ls", seed, node.name), h("ss", seed, node.name)
        )
        facts = prover.Facts(
            recipe,
            "test",
            "because",
            plan.bases,
            plan.intent.cid,
            given,
            "CPU_TEST",
            node.fingerprint,
            1,
            STEPS,
            1,
            1,
            (),
        )
        states = [Cid.of(digest, RAW) for digest in digests[1:-1]]
        task = self.view().tasks[self.task]
        body = prover.claim_body(self.task, task, facts, run, Cid.of(params, RAW), states, "kept")
        record = self.write(node, dataclasses.replace(body, **changes))  # type: ignore[arg-type]
        node.runs[record.cid], self.truth[record.cid] = run, truth
        plan.record, plan.lie = record, node.kind in LIARS
        node.trained += not plan.lie
        return record

    # what a worker would recompute
    def recompute(self, node: SimNode, duty: Duty, view: View) -> prover.Found:
        truth = self.truth[duty.experiment]
        body = view.claims[duty.experiment].body
        losses = truth.losses()
        segments = []
        for segment, step in duty.probe.segments:
            first, last = segment * STEPS // SEGMENTS, (segment + 1) * STEPS // SEGMENTS
            end = truth.digest(last) if segment < SEGMENTS - 1 else self.last_digest(truth)
            liar = view_kind(self, view, duty.experiment) == "process"
            start = h("made up", segment) if liar and segment else truth.digest(first)
            segments.append((segment, step, start, truth.digest(first + step), end))
        found = prover.Found(
            body.params, tuple((b, losses[b]) for b in duty.probe.blocks), tuple(segments), 1
        )
        if node.kind == "ring" and view_kind(self, view, duty.experiment) == "ring":
            return self.told(duty, view)
        if node.kind in ("lazy", "ring"):
            return prover.Found(body.params, tuple((b, 1) for b in duty.probe.blocks), tuple(segments), 1)
        node.checked += len(segments) / SEGMENTS + PROBE_COST * len(duty.probe.blocks) / BLOCKS
        return found

    def told(self, duty: Duty, view: View) -> prover.Found:
        """What an author of the same ring tells its accomplice to say: the author's own numbers."""
        author = view.claims[duty.experiment].author
        run = next(n for n in self.nodes.values() if n.key.public == author).runs[duty.experiment]
        truth, task = self.truth[duty.experiment], duty.probe
        segments = tuple(
            (s, step, run.digests[s], truth.digest(s * STEPS // SEGMENTS + step), run.digests[s + 1])
            for s, step in task.segments
        )
        return prover.Found(run.params, tuple((b, run.losses[b]) for b in task.blocks), segments, 1)

    def last_digest(self, truth: Truth) -> bytes:
        return state_digest(h("params", truth.recipe, truth.seed), h("tail", truth.seed))

    def perform(self, node: SimNode, view: View) -> None:
        """Everything that this node owes now, or what its kind does instead."""
        for duty in duties(view, node.key.public):
            claim = view.claims[duty.experiment]
            where = (duty.claim, duty.named)
            if duty.what == "open":
                if node.kind != "closed" and (claim.cid, claim.round_stage) not in node.opened:
                    node.opened.add((claim.cid, claim.round_stage))
                    self.write(node, self.opening(node, claim))
            elif duty.what in ("probe", "jury", "shadow"):
                if where not in node.found and node.kind not in ("idle", "copycat"):
                    self.commit(node, duty, self.recompute(node, duty, view))
            elif duty.what == "reveal" and where in node.found and node.kind != "mute":
                nonce, found, commit_cid = node.found[where]
                if node.kind == "sham":
                    found = dataclasses.replace(
                        found, cpu_ms=2, losses=tuple((b, n + 1) for b, n in found.losses)
                    )
                self.write(node, prover.reveal_body(duty.claim, commit_cid, nonce, found))
            elif duty.what == "announce" and (duty.experiment, claim.announced) not in node.announced:
                node.announced.add((duty.experiment, claim.announced))
                self.write(node, bodies.Announce(target=duty.experiment))
        if node.kind == "copycat":
            self.copy(node, view)

    def opening(self, node: SimNode, claim: Claim) -> bodies.Open:
        """The author's opening, or what its kind makes of it."""
        truth = self.truth[claim.target.cid]
        asked = prover.asked_inner(claim) if node.kind != "hides" else ()
        inner = {(s, step): truth.digest(s * STEPS // SEGMENTS + step) for s, step in asked}
        body = prover.opening(claim, node.runs[claim.target.cid], inner)
        if node.kind == "skips":
            kept = [e.commit.cid for e in claim.evidence.values() if e.author != node.skipped]
            body = dataclasses.replace(body, commits=tuple(kept))
        if node.kind == "twists":
            body = dataclasses.replace(body, losses=(body.losses[0] + 1, *body.losses[1:]))
        return body

    def commit(self, node: SimNode, duty: Duty, found: prover.Found) -> None:
        """Publish the hash of evidence and remember it."""
        where = (duty.claim, duty.named)
        nonce = h("nonce", node.name, where)[:16]
        commit = self.write(node, prover.commit_body(duty.claim, node.key.public, nonce, found, duty.named))
        node.found[where] = (nonce, found, commit.cid)

    def copy(self, node: SimNode, view: View) -> None:
        """Wait for the opening, then commit to its numbers and reveal them at once."""
        for claim in view.pending:
            probe = claim.probes.get(node.key.public) or claim.shadows.get(node.key.public)
            openings = [r for r in view.dag.records if r.kind == "open" and r.body.target == claim.cid]
            if probe is None or not openings or (claim.cid, None) in node.found:
                continue
            opened = openings[0].body
            inner = {(s, step): digest for s, step, digest in opened.inner}
            segments = tuple(
                (s, n, opened.digests[s], inner.get((s, n), b"0" * 32), opened.digests[s + 1])
                for s, n in probe.segments
            )
            losses = tuple((b, opened.losses[b]) for b in probe.blocks)
            found = prover.Found(claim.body.params, losses, segments, 1)
            duty = Duty("probe", claim.cid, claim.target.cid, probe)
            self.commit(node, duty, found)
            nonce, found, cid = node.found[claim.cid, None]
            self.write(node, prover.reveal_body(claim.cid, cid, nonce, found))

    def seal(self, node: SimNode, view: View) -> None:
        value = node.onion_values.value(self.epoch - node.join_epoch)
        round_ = max(0, view.round_settled)
        self.write(node, bodies.Seal(value=value, round=round_, digest=view.digest_of(round_)))

    def tick(self, acts: object = None) -> View:
        """One epoch: everyone does its duties, then ``acts(view)``, then everyone seals."""
        self.epoch += 1
        view = self.view()
        for node in list(self.nodes.values()):
            if node.kind != "asleep":
                self.perform(node, view)
        for plan in [
            plan for plan in self.plans if plan.node.kind != "asleep" and self.seed_of(plan) is not None
        ]:
            self.plans.remove(plan)
            if not view.ledger.account(plan.node.key.public).banned:
                self.publish(plan)
        if callable(acts):
            acts(view)
        for node in self.nodes.values():
            if node.kind != "asleep":
                self.seal(node, view)
        return self.view()

    def populate(self, *names: str, root: str = "root", **kinds: str) -> View:
        """Found the mesh, let the named nodes join by invitation, and wait until they are trusted."""
        first = SimNode(root, self.seed)
        self.found(first)
        self.tick()
        for name in names:
            self.join(SimNode(name, self.seed), self.invite(first))
        view = self.tick()
        for _ in range(2):
            view = self.tick()
        for name, kind in kinds.items():
            self.nodes[name].kind = kind
        return view

    def view(self) -> View:
        """The fold of all records; goes on from the last one."""
        count, before = self._view
        if before is None or count > len(self.records):
            self._view = len(self.records), View(self.records)
        elif count < len(self.records):
            self._view = len(self.records), View(self.records[count:], before)
        view = self._view[1]
        assert view is not None
        return view

    def populate_more(self, *names: str) -> None:
        """Further nodes that the first one invites."""
        for name in names:
            self.join(SimNode(name, self.seed), self.invite(next(iter(self.nodes.values()))))

    def run(self, epochs: int) -> View:
        """Some epochs in which nodes only do their duties."""
        view = View(self.records)
        for _ in range(epochs):
            view = self.tick()
        return view

    def claim(
        self, author: str, quality: int = 10**9, base: Cid | None = None, epochs: int = 8
    ) -> tuple[View, Claim]:
        """One experiment and the epochs that a verdict takes."""
        record = self.experiment(self.nodes[author], quality, base)
        view = self.run(epochs)
        return view, view.claims[record.cid]


def view_kind(world: World, view: View, experiment: Cid) -> str:
    author = view.dag.records[view.dag.index[experiment]].author
    return next(node.kind for node in world.nodes.values() if node.key.public == author)
