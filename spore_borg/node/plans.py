"""Runs that this node has declared and not yet done, on the disk before they are declared.

A plan is written before its intent and dropped after its experiment. So a kill at any moment neither loses a declared
run nor does it twice: a plan without an intent was never declared, and an intent with an experiment is done.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from spore_borg.limits import OPEN_INTENTS_MAX
from spore_borg.node.drawer import Drawer
from spore_borg.node.hub import Hub
from spore_borg.policies.operators import Proposal
from spore_borg.records.bodies import Intent
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.views import seeds
from spore_borg.views.settle import recipe_digest

WAITING_MAX = 4  # declared runs whose seeds ripen while another trains; a seed takes two to three epochs


@dataclass(frozen=True, slots=True)
class Plan:
    """A declared run."""

    intent: Record
    proposal: Proposal


class Plans:
    """The declared runs of one task, the oldest first."""

    def __init__(self, hub: Hub, task: Cid) -> None:
        """Find again what an earlier process had declared."""
        self.hub, self.task = hub, task
        self._files = Drawer(hub.home.work / "plans" / str(task))
        found = self._found()
        self.waiting = list(found.values())
        for name in self._files.names():
            if name not in found:
                self._files.drop(name)

    def _found(self) -> dict[bytes, Plan]:
        done = {record.body.intent for record in self.hub.own("experiment")}
        found: dict[bytes, Plan] = {}
        for intent in self.hub.own("intent"):
            name = _name(intent.body)
            packed = self._files.get(name)
            if packed is None or intent.body.task != self.task:
                continue
            found.pop(name, None)
            proposal = _unpack(packed)
            if intent.cid not in done and intent.body.until >= self.hub.epoch() and proposal is not None:
                found[name] = Plan(intent, proposal)
        return found

    def room(self) -> int:
        """How many further runs may be declared now."""
        if self.alone():
            return 1 - len(self.waiting)
        mine = {plan.intent.cid for plan in self.waiting}
        lost = sum(cid not in mine for cid in self.hub.view.open_intents.get(self.hub.me, ()))
        return min(WAITING_MAX, OPEN_INTENTS_MAX - 1 - lost) - len(self.waiting)

    def alone(self) -> bool:
        """Whether nobody else could witness an intent of now, so that its seed is there at once."""
        voters = seeds.electorate(self.hub.view, self.hub.epoch())
        return voters is not None and not seeds.others(voters, self.hub.me)

    def recipes(self) -> frozenset[bytes]:
        """Digests of the recipes that are declared."""
        return frozenset(plan.intent.body.recipe for plan in self.waiting)

    def declare(self, proposal: Proposal, until: int) -> None:
        """Sign the intent of a run; its seed ripens from now on.

        Args:
            until: last epoch of the lease.
        """
        body = Intent(
            task=self.task, bases=tuple(proposal.bases), recipe=recipe_digest(proposal.recipe), until=until
        )
        self._files.put(_name(body), _pack(proposal))
        self.waiting.append(Plan(self.hub.write(body), proposal))

    def ripe(self) -> tuple[Plan, seeds.Drawn] | None:
        """The oldest declared run that has a seed, and the seed. Those that can get none are given up."""
        view, last = self.hub.view, self._last()
        for plan in list(self.waiting):
            promise = view.promises.get(plan.intent.cid)
            fault = promise.fault if promise else ""
            drawn = None if fault else seeds.ripe(view, plan.intent, last)
            if drawn is not None:
                return plan, drawn
            if fault or self.hub.epoch() > plan.intent.epoch + 2 * seeds.RIPE_EPOCHS:
                self.drop(plan)
                why = fault or "too few others have sealed since"
                self.hub.event("lapsed", f"a declared run gets no seed: {plan.proposal.operator}: {why}")
        return None

    def drop(self, plan: Plan) -> None:
        """It is done, or given up."""
        self.waiting.remove(plan)
        self._files.drop(_name(plan.intent.body))

    def _last(self) -> Cid | None:
        """The newest own record that the view has."""
        known = self.hub.view.dag.index
        return next((record.cid for record in reversed(self.hub.own()) if record.cid in known), None)


def _name(body: Intent) -> bytes:
    """What a plan is filed under; known before its intent is signed."""
    return hashlib.sha256(body.task + body.recipe + b"".join(body.bases)).digest()


def _pack(proposal: Proposal) -> dict[str, Any]:
    return {
        "recipe": proposal.recipe, "bases": [str(base) for base in proposal.bases], "operator": proposal.operator,
        "why": proposal.why,
    }  # fmt: skip


def _unpack(value: dict[str, Any]) -> Proposal | None:
    """The proposal; None if the file is not what this program writes."""
    try:
        bases = tuple(Cid.parse(base) for base in value["bases"])
        return Proposal(dict(value["recipe"]), bases, value["operator"], value["why"])
    except (KeyError, TypeError, ValueError):
        return None
