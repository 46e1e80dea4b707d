"""Research on a lattice task: the loop of any other, with bases to fetch and rows to own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from spore_borg.errors import NotFound
from spore_borg.node.researcher import IDLE_S, Researcher
from spore_borg.policies import growing
from spore_borg.policies.operators import Proposal, Space, space_of
from spore_borg.policies.proposer import Situation
from spore_borg.records.bodies import Task
from spore_borg.records.cid import Cid
from workspace import lattice_recipe


class GrowingResearcher(Researcher):
    """One node's research on one lattice."""

    _task: Cid
    _bases: tuple[Path, ...] = ()

    def space(self, task: Task) -> Space:
        """The recipes of a lattice; ``rows`` and ``bases`` are given, not searched."""
        return space_of(lattice_recipe, {})

    def _situation(self, task_cid: Cid, task: Task) -> Situation:
        self._task = task_cid
        return super()._situation(task_cid, task)

    def decide(self, now: Situation) -> Proposal | None:
        """See ``policies.growing``."""
        view = self.hub.view
        params = {
            trial.cid: (view.body_of(trial.cid).params or b"").hex()
            for trial in now.trials
            if trial.metric is not None and trial.cid in view.claims
        }
        return growing.propose(now, growing.own_ranges(view, self.hub.me, self._task), params, self.rng)

    async def _propose(self, task_cid: Cid, task: Task) -> Proposal:
        """The next proposal whose bases' lattices can be had; waits while there is none."""
        told = False
        while True:
            proposal = await super()._propose(task_cid, task)
            weights = [self.hub.view.body_of(base).weights for base in proposal.bases]
            try:
                self._bases = tuple([await self.fetch(cid) for cid in weights if cid is not None])
            except NotFound:
                if not told:
                    self.hub.event(
                        "waiting", f"no connected peer has a lattice that task {task.name} builds on"
                    )
                    told = True
                await trio.sleep(IDLE_S)
            else:
                return proposal

    def job(self, task: Task, proposal: Proposal, seed: int) -> dict[str, Any]:
        """What the worker is asked to train."""
        return {**super().job(task, proposal, seed), "base_paths": [str(path) for path in self._bases]}
