"""Toy absorptions in the simulated world of ``tests.world``: real records and verification, made-up conversions."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from spore_borg.policies import absorber, prover
from spore_borg.policies.verifier import Duty
from spore_borg.records import bodies
from spore_borg.records.cid import RAW, Cid
from spore_borg.records.envelope import Record
from spore_borg.records.merkle import state_digest
from spore_borg.views import evidence, gate
from spore_borg.views.reduce import View
from spore_borg.views.verdicts import Claim
from tests.world import SimNode, World, h

ITEMS, TOLERANCE, GROUPS = 64, 10_000, 8
TEXT = {0: 60, 1: 0}  # probe → gain, in noise units


@dataclass
class Shard:
    """What a conversion really gives.

    ``true``: losses as anybody computes them from the published shard and the source; ``chain``: digests of the
    published shard; ``redone``: the same as anybody gets who converts the source again.
    """

    true: tuple[int, ...]
    chain: tuple[bytes, ...]
    redone: tuple[bytes, ...]
    inner: bytes
    claimed: tuple[int, ...] = ()
    inner_known: bytes = b""
    params: bytes = b""
    tail: bytes = b""


def losses(seed: object, infidelity: int, gains: Mapping[int, int], flat: bool = False) -> tuple[int, ...]:
    """240 losses with noise: fidelity in nano an item, gains by probe in units of the noise of a block."""
    rng, noise = random.Random(repr(seed)), 1_000_000
    found = [4 * infidelity + rng.randint(0, infidelity) for _ in range(gate.UNITS)]
    for probe in range(gate.PROBES_MAX):
        if probe not in gains:
            found += [0] * (2 * gate.UNITS)
            continue
        before = [200 * noise + rng.randint(-noise, noise) for _ in range(gate.UNITS)]
        found += before
        found += [b - gains[probe] * noise + (0 if flat else rng.randint(-noise, noise)) for b in before]
    return tuple(found)


def drifted(node: SimNode, claim: Cid, block: int, loss: int) -> int:
    """A loss as another instruction set gives it: as far off as was measured between AVX-512 and SSE 4.2."""
    rng = random.Random(repr((node.name, claim, block)))
    most = loss * 7 // 10 if block < gate.UNITS else 60_000
    return max(0, loss + rng.randint(-most, most)) if loss else 0


def linked(model: str, base: Cid | None, groups: Collection[int]) -> list[bytes]:
    """The chain over layer groups, of which only these hold something: c[0] … c[K]."""
    links = [h("chain", model, 0)]
    for k in range(GROUPS):
        made = h("tail", model, base) if k == GROUPS - 1 else h("chain", model, k + 1)
        links.append(made if k in groups else hashlib.sha256(links[-1] + evidence.NOTHING).digest())
    return links


@dataclass
class AbsorbWorld(World):
    """A world whose nodes absorb models as well."""

    seed: int = 1
    shards: dict[Cid, Shard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.seed)

    def absorb_task(self, author: str = "root", **change: Any) -> Cid:
        """The mesh's task for absorptions."""
        body = bodies.Task(
            name="absorb", metric="infidelity", direction="min", unit="nano", sigma=0, gain_min=0, budget_flops=1,
            segments=GROUPS, blocks=gate.BLOCKS, block_tokens=4, val_bytes=ITEMS, tolerance=TOLERANCE,
            data=Cid.of(b"suite", RAW), evaluator=h("learn"), spec={"kind": "absorption", "probes": "topics,sts"},
            baseline={},
        )  # fmt: skip
        self.absorbing = self.write(self.nodes[author], dataclasses.replace(body, **change)).cid
        return self.absorbing

    def absorb(
        self, author: str, model: str, *, gains: Mapping[int, int] | None = None, infidelity: int = 5_000_000,
        lie: str = "", base: Cid | None = None, **change: Any,
    ) -> Record:  # fmt: skip
        """Claim a toy conversion; ``lie``: weight, source, fidelity, probes, bias, metric, third (fidelity) or gross
        (probes) by a factor of 3, or far (before and after, by as much as other hardware cannot tell). ``groups``: the
        layer groups that hold something, where it is not all."""
        node, view = self.nodes[author], self.view()
        told = dict(change)
        true = losses(
            (self.seed, model, base), infidelity, TEXT if gains is None else gains, told.pop("flat", False)
        )
        params = h("params", model, base)
        *links, tail = linked(model, base, told.pop("groups", range(GROUPS)))
        chain = tuple(links)
        redone = (*chain, state_digest(params, tail))
        shard = Shard(true, redone, redone, h("rows", model), true, h("rows", model), params, tail)
        if lie in ("weight", "source"):  # what is published is not what the named source gives
            bad = h("other", model)
            published = (
                *chain[:1],
                *(h("other", model, k) for k in range(1, GROUPS)),
                state_digest(bad, tail),
            )
            # redoing group k starts from the published shard, and ends where the true source leads
            shard = dataclasses.replace(shard, chain=published, params=bad)
            if lie == "source":
                shard.inner_known = h("rows of another source", model)
        if lie == "fidelity":
            shard.claimed = tuple(n // 2 for n in true[:16]) + true[16:]
        if lie == "bias":
            least = view.tasks[self.absorbing].tolerance
            shard.claimed = true[:32] + tuple(n - least for n in true[32:48]) + true[48:]
        if lie == "third":
            shard.claimed = tuple(n // 3 for n in true[:16]) + true[16:]
        if lie == "gross":
            shard.claimed = true[:32] + tuple(n // 3 for n in true[32:48]) + true[48:]
        if lie == "far":
            off = 4_900_000
            shard.claimed = (
                true[:16]
                + tuple(n + off for n in true[16:32])
                + tuple(n - off for n in true[32:48])
                + true[48:]
            )
        if lie == "probes":
            shard.claimed = true[:32] + tuple(n * 3 // 4 for n in true[32:48]) + true[48:]
        seed = absorber.salt_seed(shard.params, ())
        run = prover.Run(
            shard.claimed, shard.chain, shard.params, tail, h("ls", seed, len(self.records)), h("ss", seed, node.name)
        )  # fmt: skip
        modality = told.pop("modality", "text")
        facts = absorber.Facts(
            sources=(("model.bin", Cid.of(model.encode(), RAW)),), origin=f"file:{model}", licence="MIT", name=model,
            head="embedder", modality=modality, rule="few-spike/1", steps=told.pop("steps", 5),
            state=told.pop("state", absorber.state_for(view, node.key.public, modality)), operator="ask",
            why="a test", family="CPU_TEST", fingerprint=node.fingerprint, params_count=10, layers=3,
            sparsity_ppm=500_000, cpu_ms=1, source_bytes=len(model.encode()),
            shard_bytes=len(shard.params), ops=1_000, base=base,
        )  # fmt: skip
        base_losses = None if base is None or base not in self.shards else self.shards[base].claimed
        body = absorber.claim_body(
            self.absorbing, view.tasks[self.absorbing], facts, run, Cid.of(shard.params, RAW), base_losses
        )
        if lie == "metric":
            told["metric"] = body.metric // 2
        record = self.write(node, dataclasses.replace(body, **told))
        node.runs[record.cid], self.shards[record.cid] = run, shard
        return record

    def absorbed(self, author: str, model: str, epochs: int = 8, **more: Any) -> tuple[View, Claim]:
        """One absorption and the epochs that a verdict takes."""
        record = self.absorb(author, model, **more)
        view = self.run(epochs)
        return view, view.claims[record.cid]

    def recompute(self, node: SimNode, duty: Duty, view: View) -> prover.Found:
        shard = self.shards.get(duty.experiment)
        if shard is None:
            return super().recompute(node, duty, view)
        body = view.claims[duty.experiment].body
        segments = tuple(
            (k, step, shard.chain[k], h(shard.inner, k, step), h("redone", k) if k and shard.chain != shard.redone
             else shard.chain[k + 1])
            for k, step in duty.probe.segments
        )  # fmt: skip
        if node.kind == "lazy":
            return prover.Found(body.params, tuple((b, 1) for b in duty.probe.blocks), segments, 1)
        far = node.fingerprint != body.fingerprint
        losses = tuple((b, drifted(node, duty.experiment, b, shard.true[b]) if far else shard.true[b])
                       for b in duty.probe.blocks)  # fmt: skip
        return prover.Found(body.params, losses, segments, 1)

    def opening(self, node: SimNode, claim: Claim) -> bodies.Open:
        shard = self.shards.get(claim.target.cid)
        if shard is None:
            return super().opening(node, claim)
        inner = {(k, step): h(shard.inner_known, k, step) for k, step in prover.asked_inner(claim)}
        return prover.opening(claim, node.runs[claim.target.cid], inner)
