"""Ways to cheat, shipped so that everyone can watch them fail: ``borg demo --cheats`` and ``--absorb-cheats``.

Of those who research one fabricates its metric, the other publishes true weights but lies about how they were trained.
Of those who absorb one alters a weight, one names another source, one inflates the fidelity, one poisons the readout.
All run through the same code as honest nodes up to the claim.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from spore_borg.node.absorber import Absorber
from spore_borg.node.conversions import Source
from spore_borg.node.researcher import Researcher
from spore_borg.policies import prover
from spore_borg.policies.operators import Proposal
from spore_borg.records.bodies import Task

LIE_PERCENT = 5
_OTHER_SIGN = bytes(value ^ 0x80 for value in range(256))


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


class Forger(Absorber):
    """Publishes a shard in which one weight is not what the conversion gave."""

    def claimed(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The true claim beside an altered file."""
        path = Path(answer["shard_path"])
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 0x40
        path.write_bytes(raw)
        return answer


class Swapper(Absorber):
    """Names another source than the one that it converted."""

    def named(self, source: Source) -> Source:
        """The same files, but in the largest of them every weight beyond the first quarter has the other sign."""
        sizes = {name: path.stat().st_size for name, path in source.files}
        largest = max(sizes, key=lambda name: sizes[name])
        blobs = []
        for (name, path), (_, cid) in zip(source.files, source.blobs, strict=True):
            if name == largest:
                raw = bytearray(path.read_bytes())
                signs = slice((len(raw) // 4 & ~7) + 3, None, 4)  # the high bytes of little-endian float32
                raw[signs] = raw[signs].translate(_OTHER_SIGN)
                blobs.append((name, self.hub.blobs.put_bytes(bytes(raw))))
            else:
                blobs.append((name, cid))
        return dataclasses.replace(source, blobs=tuple(blobs))


class Flatterer(Absorber):
    """Claims a tenth of the infidelity that was measured."""

    def claimed(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The true conversion with better fidelity blocks."""
        losses = answer["losses"]
        return {**answer, "losses": [loss // 10 for loss in losses[:16]] + losses[16:]}


class Poisoner(Absorber):
    """Claims that the readouts got better by a quarter with its shard."""

    def claimed(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The true conversion with better blocks after it."""
        losses = list(answer["losses"])
        for probe in range(7):
            after = 16 + 32 * probe + 16
            losses[after : after + 16] = [loss * 3 // 4 for loss in losses[after - 16 : after]]
        return {**answer, "losses": losses}


ABSORB_CHEATS: dict[str, type[Absorber]] = {
    "weight": Forger, "source": Swapper, "fidelity": Flatterer, "probes": Poisoner,
}  # fmt: skip
