"""Toy merges in the simulated world of ``tests.absorb_world``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spore_borg.policies import absorber, prover
from spore_borg.records.cid import RAW, Cid
from spore_borg.records.envelope import Record
from spore_borg.records.merkle import state_digest
from spore_borg.views import gate, lineage
from spore_borg.views.reduce import View
from spore_borg.views.verdicts import Claim
from tests.absorb_world import GROUPS, AbsorbWorld, Shard, losses
from tests.world import h

ALONE = {0: 60}  # probe → gain, in noise units: no other probe whose noise could look like a loss


def noisy(found: Sequence[int], times: int) -> tuple[int, ...]:
    """The losses with differences between before and after that are so many times as large."""
    said = list(found)
    for group in range(1, gate.GROUPS):
        for before, after in (gate.unit_blocks(group, index) for index in range(gate.UNITS)):
            said[after] = said[before] - times * (said[before] - said[after])
    return tuple(said)


@dataclass
class MergeWorld(AbsorbWorld):
    """A world whose nodes merge what they have absorbed."""

    def merge(
        self, author: str, inputs: Sequence[Cid], *, rule: str = "trimmed/1", base: Cid | None = None,
        gains: Mapping[int, int] | None = None, infidelity: int = 5_000_000, lie: str = "", noise: int = 1,
        **change: Any,
    ) -> Record:  # fmt: skip
        """Claim a toy merge; ``lie``: coordinate (the shard is not what the merge gives); ``noise``: of the gains."""
        node, view, inputs = self.nodes[author], self.view(), tuple(sorted(inputs))
        body = view.claims[inputs[0]].body
        mark = (*inputs, rule, base)
        true = noisy(losses((self.seed, mark), infidelity, ALONE if gains is None else gains), noise)
        params, tail = h("params", mark), h("tail", mark)
        redone = (*(h("chain", mark, k) for k in range(GROUPS)), state_digest(params, tail))
        shard = Shard(true, redone, redone, h("rows", mark), true, h("rows", mark), params, tail)
        if lie == "coordinate":  # every layer group that holds an altered weight ends elsewhere
            bad = h("other", mark)
            published = (
                *redone[:1],
                *(h("other", mark, k) for k in range(1, GROUPS)),
                state_digest(bad, tail),
            )
            shard = dataclasses.replace(shard, chain=published, params=bad)
        run = prover.Run(
            shard.claimed, shard.chain, shard.params, tail, h("ls", len(self.records)), h("ss", mark)
        )
        told = dict(change)
        merging = absorber.Merging(
            inputs, told.pop("incomes", None) or lineage.incomes(view, inputs), rule, base
        )
        facts = absorber.Facts(
            sources=told.pop("sources", None) or lineage.sources_of(view.claims, inputs, base), origin="merge",
            licence="MIT", name="merged", head=body.head, modality=body.modality, rule=body.rule, steps=body.steps,
            state=told.pop("state", absorber.state_for(view, node.key.public, body.modality)), operator="merge",
            why="a test", family="CPU_TEST", fingerprint=node.fingerprint, params_count=10, layers=3,
            sparsity_ppm=500_000, cpu_ms=1,
            fewer=lineage.fewer(view, inputs, view.bank.members(body.modality)),
            source_bytes=sum(view.claims[cid].body.source_bytes for cid in inputs),
            shard_bytes=len(shard.params), ops=1_000, merge=merging,
        )  # fmt: skip
        made = absorber.claim_body(
            self.absorbing, view.tasks[self.absorbing], facts, run, Cid.of(shard.params, RAW)
        )
        record = self.write(node, dataclasses.replace(made, **told))
        node.runs[record.cid], self.shards[record.cid] = run, shard
        return record

    def merged(self, author: str, inputs: Sequence[Cid], epochs: int = 8, **more: Any) -> tuple[View, Claim]:
        """One merge and the epochs that a verdict takes."""
        record = self.merge(author, inputs, **more)
        view = self.run(epochs)
        return view, view.claims[record.cid]


def lineage_of(
    *models: str, seed: int = 1, nodes: Sequence[str] = ("ann", "ben")
) -> tuple[MergeWorld, list[Cid]]:
    """A world in which nodes have absorbed some models of one lineage, by turns, and all are in the state."""
    world = MergeWorld(seed)
    world.populate(*nodes)
    world.absorb_task()
    world.run(2)
    found = []
    for number, model in enumerate(models):
        view, claim = world.absorbed(nodes[number % 2], model, gains=ALONE)
        found.append(claim.target.cid)
    assert set(found) <= set(view.bank.members())
    return world, found
