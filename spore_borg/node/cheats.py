"""Two ways to cheat, shipped so that everyone can watch them fail: ``borg demo --cheats``.

One fabricates its metric; the other publishes true weights but lies about how they were trained. Both run
through the same code as honest research up to the claim.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from spore_borg.node.researcher import Researcher
from spore_borg.policies import prover
from spore_borg.policies.operators import Proposal
from spore_borg.records.bodies import Task

LIE_PERCENT = 5


class Fabricator(Researcher):
    """Claims losses that are 5 % lower than the harness computed."""

    def secrets(self, seed: int, answer: dict[str, Any]) -> prover.Run:
        """The true run with better numbers."""
        run = super().secrets(seed, answer)
        return dataclasses.replace(
            run, losses=tuple(loss * (100 - LIE_PERCENT) // 100 for loss in run.losses)
        )


class Pretender(Researcher):
    """Trains with another learning rate than the recipe says, and publishes the weights that came out."""

    def job(self, task: Task, proposal: Proposal, seed: int) -> dict[str, Any]:
        """The job for the worker: not the recipe that will be signed."""
        job = super().job(task, proposal, seed)
        recipe = dict(job["recipe"])
        recipe["lr"] = int(recipe["lr"]) * 9 // 10
        return {**job, "recipe": recipe}


CHEATS: dict[str, type[Researcher]] = {"metric": Fabricator, "process": Pretender}
