"""What an absorbing node claims and does next: the state it measures against, its own word, what to do again. Pure.

Source: PROTOCOL §6; spec/51-absorption-and-state.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, fields

from spore_borg.policies.prover import WHY_BYTES, Run, clip
from spore_borg.records import merkle
from spore_borg.records.bodies import Absorption, Merge, Refinement, Task
from spore_borg.records.cid import Cid
from spore_borg.views import evidence, gate, terms, verdicts
from spore_borg.views.bank import STALE
from spore_borg.views.reduce import View

PENDING_MAX = 2  # absorptions without a verdict; a node with more does not think of refinements
ROOM = 1_000_000  # nano-(1 - cosine): nearer to its source is near enough; there is little left to show
EVERY_BLOCK = range(gate.BLOCKS)


@dataclass(frozen=True, slots=True)
class Merging:
    """What makes a claim a merge: see ``records.bodies.Merge``."""

    inputs: tuple[Cid, ...]
    incomes: tuple[int, ...]
    merging: str
    base: Cid | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """The describing half of an absorption: its body without commitments and outcome.

    ``base`` makes it a refinement, ``merge`` a merge; ``fewer``: by how many members a merge makes the state smaller.
    """

    sources: tuple[tuple[str, Cid], ...]
    origin: str
    licence: str
    name: str
    head: str
    modality: str
    rule: str
    steps: int
    state: tuple[Cid, ...]
    operator: str
    why: str
    family: str
    fingerprint: bytes
    params_count: int
    layers: int
    sparsity_ppm: int
    cpu_ms: int
    source_bytes: int
    shard_bytes: int
    ops: int
    base: Cid | None = None
    merge: Merging | None = None
    fewer: int = 0


def claim_body(
    task_cid: Cid, task: Task, facts: Facts, run: Run, weights: Cid, base_losses: Sequence[int] | None = None
) -> Absorption:
    """The claim of a conversion.

    Args:
        run: losses, chain digests and salts; weights: the shard's blob.
        base_losses: of a refinement's base, as it opened them.
    """
    root = merkle.loss_root(run.loss_secret, list(run.losses))
    said = {
        item.name: getattr(facts, item.name)
        for item in fields(facts)
        if item.name not in ("base", "merge", "fewer")
    }
    said["why"] = clip(facts.why, WHY_BYTES)
    common = {
        **said, "task": task_cid, "outcome": own_word(run.losses, base_losses, facts.fewer),
        "metric": gate.infidelity(run.losses, task, facts.modality), "loss_root": root.digest, "loss_sum": root.total,
        "state_root": merkle.state_root(run.state_secret, list(run.digests)), "weights": weights, "params": run.params,
        "groups": evidence.filled(run.digests, run.tail),
    }  # fmt: skip
    if facts.merge is not None:
        return Merge(**common, **asdict(facts.merge))
    return Absorption(**common) if facts.base is None else Refinement(**common, base=facts.base)


def own_word(losses: Sequence[int], base_losses: Sequence[int] | None = None, fewer: int = 0) -> str:
    """What the gate says of all of the author's own losses: kept or discarded. ``fewer`` as in ``gate.decide``."""
    weighed = gate.weigh_probes(losses, EVERY_BLOCK)
    if base_losses is not None:
        weighed.append(gate.weigh_fidelity(base_losses, losses, EVERY_BLOCK))
    return "kept" if gate.decide(weighed, fewer)[0] else "discarded"


def salt_seed(params: bytes, state: Sequence[Cid]) -> int:
    """What a conversion's salt secrets are derived from: another number for each state it is measured against."""
    return int.from_bytes(
        hashlib.sha256(b"spore-borg/absorb\0" + params + b"".join(state)).digest()[:8], "big"
    )


def state_for(view: View, me: bytes, modality: str) -> tuple[Cid, ...]:
    """What a conversion is measured against: the confirmed members, or the solo state while nobody else is there."""
    others = any(who != me and view.is_live(who) for who in view.ledger.trust)
    return (view.bank if others else view.bank_solo).members(modality)


def stale(view: View, me: bytes) -> list[Cid]:
    """Own claims that were measured against a state that has moved on and may be measured again."""
    found = []
    for cid in sorted(view.absorbed.values()):
        claim = view.claims[cid]
        if claim.author != me or cid in view.bank.retracted:
            continue
        bank = view.bank_solo if claim.verdict == verdicts.SOLO else view.bank
        standing = bank.standings.get(cid)
        if standing is not None and standing.word == STALE and terms.may_measure_again(view, cid, me):
            found.append(cid)
    return found


def to_refine(view: View, me: bytes, fingerprint: bytes, skip: Container[object] = ()) -> list[Cid]:
    """Members of the state that may be refined: verified, of this fingerprint, not tried yet, and with room.

    The one with the least fidelity comes first. None while absorptions wait for verification, so that refinements
    never hold up what somebody asked for.

    Args:
        skip: members whose refinement came to nothing here.
    """
    if sum(isinstance(claim.body, Absorption) for claim in view.pending) > PENDING_MAX:
        return []
    tried = {claim.body.base for claim in view.claims.values() if isinstance(claim.body, Refinement)}
    found = []
    for cid in view.bank.members():
        body = view.claims[cid].body
        assert isinstance(body, Absorption), "only absorptions are members"
        fits = body.fingerprint == fingerprint and not isinstance(body, Merge) and cid not in skip
        if fits and cid not in tried and body.metric >= ROOM:
            mine = view.claims[cid].author == me
            found.append((-body.metric, not mine, hashlib.sha256(me + cid).digest(), cid))
    return [cid for *_, cid in sorted(found)]
