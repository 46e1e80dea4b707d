"""Keeps the blob directory within its budget, least useful first.

Segment states go as soon as their claim can no longer be asked about; weights of frontier steps stay;
other weights go oldest first while the directory is over its budget.
Source: PROTOCOL §4, retention.
"""

from __future__ import annotations

import trio

from spore_borg.node.hub import Hub
from spore_borg.policies.verifier import matters
from spore_borg.records.bodies import Absorption
from spore_borg.records.cid import Cid
from spore_borg.views import verdicts
from spore_borg.views.reduce import View

PAUSE_S = 20.0


async def tidy_forever(hub: Hub, budget_bytes: int) -> None:
    """Tidy up after every few folds."""
    while True:
        await hub.changed()
        for cid in disposable(hub.view):
            hub.blobs.remove(cid)
        await trio.to_thread.run_sync(_shrink, hub, budget_bytes)
        await trio.sleep(PAUSE_S)


def disposable(view: View) -> list[Cid]:
    """State blobs that nobody may ask for any more."""
    return [state for claim in view.claims.values() if _over(view, claim) for state in _states(claim)]


def _states(claim: verdicts.Claim) -> set[Cid]:
    """The states of a run, and those that a dispute asked for."""
    disputed = () if claim.states is None else claim.states.body.states
    return {*claim.body.states, *(blob for _, before, after in disputed for blob in (before, after))}


def _over(view: View, claim: verdicts.Claim) -> bool:
    if claim.round_settled is None or claim.round_settled > view.round_settled:
        return False
    if claim.verdict == verdicts.SOLO:
        return not matters(view, claim)
    return claim.verdict in (verdicts.ACCEPTED, verdicts.REFUTED)


def _shrink(hub: Hub, budget_bytes: int) -> None:
    usage = hub.blobs.usage()
    if usage <= budget_bytes:
        return
    view = hub.view
    kept = {
        s.cid for pool in (view.frontiers, view.solo) for frontier in pool.values() for s in frontier.steps
    }
    kept |= {*view.bank.members(), *view.bank_solo.members()}  # the state is what the mesh answers with
    old = [
        claim for claim in view.claims.values()
        if claim.verdict is not None and claim.target.cid not in kept and claim.body.weights is not None
    ]  # fmt: skip
    # two claims may share files: what one of them still needs stays
    needed = {cid for claim in view.claims.values() if claim.target.cid in kept for cid in _files(claim)}
    needed |= {cid for claim in view.pending for cid in _files(claim)}
    for claim in sorted(old, key=lambda claim: claim.round_settled or 0):
        if usage <= budget_bytes:
            return
        for cid in _files(claim) - needed:
            if hub.blobs.has(cid):
                size = hub.blobs.size(cid)
                hub.blobs.remove(cid)
                usage -= size


def _files(claim: verdicts.Claim) -> set[Cid]:
    """The weights of a run, or the shard and the sources of an absorption."""
    weights = set() if claim.body.weights is None else {claim.body.weights}
    return weights | ({cid for _, cid in claim.body.sources} if isinstance(claim.body, Absorption) else set())
