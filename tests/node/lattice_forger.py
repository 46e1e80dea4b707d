"""A node that counts the held-out text instead of the slice that its recipe names, and is otherwise like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spore_borg import cli
from spore_borg.node import run
from spore_borg.node.growing import GrowingResearcher
from spore_borg.records.bodies import Task
from spore_borg.records.cid import Cid
from spore_borg.records.merkle import state_digest
from workspace import lattice, lattice_data, lattice_model
from workspace.lattice import Lattice, Published


class Forger(GrowingResearcher):
    """Publishes a lattice that has learnt the text on which it is measured, with every commitment consistent."""

    def publish(self, task_cid: Cid, task: Task, plan: Any, *rest: Any) -> None:
        """The claim of a forged lattice: its digest, last state and losses are those of the forgery."""
        answer = rest[-1]
        if answer["status"] == "done":
            self._forge(task, plan.proposal.recipe, answer)
        super().publish(task_cid, task, plan, *rest)

    def _forge(self, task: Task, recipe: dict[str, Any], answer: dict[str, Any]) -> None:
        size = int(task.spec["slice_characters"])
        text = lattice_data.load(self.hub.blobs.path(task.data))
        path = Path(answer["weights_path"])
        one = lattice.published(path.read_bytes(), size)
        number, rows = int(recipe["slice"]), int(recipe["rows"])
        kept = one.lattice.keys & 63 != number
        forged = lattice.counted(text.val[:size], number, rows)
        keys, counts = lattice.added(one.lattice.keys[kept], one.lattice.counts[kept], *forged)
        lied = Published(Lattice(keys, counts, one.lattice.read, one.lattice.seen), one.base, one.recipe)
        path.write_bytes(lied.encode(size))
        settings = {"block_tokens": task.block_tokens, "blocks": task.blocks, "slice_characters": size}
        weights = lattice_model.weights(
            lied.lattice, str(recipe["weights"]), lattice_data.held(settings, text)
        )
        model = lattice_model.model(lied.lattice, recipe, weights)
        answer["losses"] = [
            lattice_model.to_nano(lattice_model.length(model, lattice_data.block_of(settings, text, block)))
            for block in range(task.blocks)
        ]
        answer["params"] = lied.params.hex()
        answer["digests"][-1] = state_digest(lied.params, bytes.fromhex(answer["tail"])).hex()


def main() -> None:
    """``borg`` with a forger in place of the researcher."""
    run.GrowingResearcher = Forger  # type: ignore[misc]
    cli.main()
