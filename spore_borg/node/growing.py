"""Research on a lattice task: the loop of any other, with bases to fetch and rows to own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from spore_borg.errors import NotFound
from spore_borg.node.plans import Plan
from spore_borg.node.researcher import IDLE_S, Researcher
from spore_borg.policies import growing
from spore_borg.policies.operators import Proposal, Space, space_of
from spore_borg.policies.proposer import Situation
from spore_borg.records.bodies import Task
from spore_borg.records.cid import Cid
from spore_borg.views.seeds import Drawn
from workspace import lattice_recipe


class GrowingResearcher(Researcher):
    """One node's research on one lattice."""

    _task: Cid
    _bases: tuple[Path, ...] = ()

    def space(self, task: Task) -> Space:
        """The recipes of a lattice; ``rows`` and ``bases`` are given, not searched."""
        return space_of(lattice_recipe, {})

    def _situation(self, task_cid: Cid, task: Task, declared: frozenset[bytes]) -> Situation:
        self._task = task_cid
        return super()._situation(task_cid, task, declared)

    def decide(self, now: Situation) -> Proposal | None:
        """See ``policies.growing``."""
        view = self.hub.view
        params = {
            trial.cid: (view.body_of(trial.cid).params or b"").hex()
            for trial in now.trials
            if trial.metric is not None and trial.cid in view.claims
        }
        return growing.propose(now, growing.own_ranges(view, self.hub.me, self._task), params, self.rng)

    async def _propose(
        self, task_cid: Cid, task: Task, declared: frozenset[bytes], *, wait: bool
    ) -> Proposal | None:
        """The next proposal whose bases' lattices can be had; waits while there is none, if it may."""
        told = False
        while True:
            proposal = await super()._propose(task_cid, task, declared, wait=wait)
            if proposal is None or await self._bring(proposal.bases):
                return proposal
            if not told:
                self.hub.event("waiting", f"no connected peer has a lattice that task {task.name} builds on")
                told = True
            if not wait:
                return None
            await trio.sleep(IDLE_S)

    async def _bring(self, bases: tuple[Cid, ...]) -> bool:
        """Have the lattices of these experiments here for the next run; false if one cannot be had."""
        weights = [self.hub.view.body_of(base).weights for base in bases]
        try:
            self._bases = tuple([await self.fetch(cid) for cid in weights if cid is not None])
        except NotFound:
            return False
        return True

    async def _experiment(self, task_cid: Cid, task: Task, data: Path, plan: Plan, drawn: Drawn) -> bool:
        """One declared run, with its own bases: others were declared since."""
        if not await self._bring(plan.proposal.bases):
            self.hub.event("lapsed", "a declared run is given up: a lattice that it builds on is gone")
            return False
        return await super()._experiment(task_cid, task, data, plan, drawn)

    def job(self, task: Task, proposal: Proposal, seed: int) -> dict[str, Any]:
        """What the worker is asked to train."""
        return {**super().job(task, proposal, seed), "base_paths": [str(path) for path in self._bases]}
