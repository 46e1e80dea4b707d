"""What a lattice task needs of a node beside other experiments: its blob, its evaluator, the lattices of its bases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spore_borg.node.tasks import task_body
from spore_borg.records.bodies import Task
from spore_borg.records.cid import Cid
from spore_borg.views.lattices import KIND, is_lattice
from spore_borg.views.reduce import View
from spore_borg.views.verdicts import Claim

NAME = "lattice"  # of the shipped task


def evaluator_of(task: Task, hello: Mapping[str, Any]) -> str:
    """Digest of the evaluator here that measures experiments on such a task, in hexadecimal."""
    return str(hello["lattice" if is_lattice(task) else "evaluator"])


def base_weights(view: View, claim: Claim, segment: int) -> tuple[Cid, ...]:
    """The published lattices that the last segment of a run is joined with; none for other segments and tasks."""
    if not is_lattice(claim.task) or segment != claim.task.segments - 1:
        return ()
    found = (view.body_of(base).weights for base in claim.body.bases)
    return tuple(cid for cid in found if cid is not None)


def lattice_task(spec: Mapping[str, Any], data: Cid, evaluator: bytes) -> Task:
    """The record of a lattice task: what counts is exact, so no difference at all is allowed."""
    assert spec["kind"] == KIND, "a spec of the lattice's dataset"
    return task_body(spec, data, evaluator, tolerance=0)
