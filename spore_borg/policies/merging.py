"""Which members of the state could be one model, who tries it, and what the merge is called. Pure.

Source: PROTOCOL §6; spec/52-merge.md; ``policies.ownership`` for who writes in which turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from spore_borg.limits import MERGE_INPUTS_MAX
from spore_borg.policies.absorber import PENDING_MAX, Merging, state_for
from spore_borg.policies.ownership import owner
from spore_borg.policies.prover import clip
from spore_borg.records.bodies import MERGINGS, Absorption, Merge
from spore_borg.records.cid import Cid
from spore_borg.records.keys import node_name
from spore_borg.views import lineage, terms
from spore_borg.views.reduce import View

OWN_RULE = "trimmed/1"  # of merges that nobody asked for
TURN_ROUNDS = 64  # for so many rounds one node may propose what to do with a range of the state
NAME_BYTES, ORIGIN_BYTES, LICENCE_BYTES = 200, 300, 200  # as in records.bodies.Absorption


def is_my_turn(view: View, me: bytes, what: str, fingerprint: bytes | None = None) -> bool:
    """Whether this node is the one that may write a range of the state now: weighted by trust, among those awake.

    Every node finds the same one, so that two of them do not do the same work at once. It is a custom and no rule:
    what two write at the same time is a duplicate or stale, and nothing breaks.

    Args:
        what: names the range; fingerprint: only nodes with this one can do it.
    """
    writers = {}
    for who, trust in view.ledger.trust.items():
        member = view.members.get(who)
        researches = member is not None and member.join is not None and member.join.body.role == "research"
        able = member is not None and fingerprint in (None, member.fingerprint())
        if trust > 0 and researches and able and view.is_live(who):
            writers[node_name(who)] = trust
    return bool(writers) and owner(what, view.round // TURN_ROUNDS, writers) == node_name(me)


def candidates(view: View) -> list[tuple[Cid, ...]]:
    """What could be merged: the members of each lineage, as far as records tell one; ascending.

    A lineage with a merge in the state is a candidate again when a model has come that is not in it.
    """
    groups: dict[tuple[object, ...], set[Cid]] = defaultdict(set)
    fresh: set[tuple[object, ...]] = set()
    for cid in view.bank.members():
        body = view.claims[cid].body
        assert isinstance(body, Absorption), "only absorptions are members"
        inputs = body.inputs if isinstance(body, Merge) else (cid,)
        form = _form(view, inputs[0])
        groups[form].update(inputs)
        if not isinstance(body, Merge):
            fresh.add(form)
    tried = {claim.body.inputs for claim in view.claims.values() if isinstance(claim.body, Merge)}
    found = (tuple(sorted(group)) for form, group in groups.items() if form in fresh)
    return sorted(one for one in found if 2 <= len(one) <= MERGE_INPUTS_MAX and one not in tried)


def _form(view: View, cid: Cid) -> tuple[object, ...]:
    body = view.claims[cid].body
    assert isinstance(body, Absorption), "only absorptions are members"
    return body.task, body.head, body.modality, body.rule, body.steps, body.params_count, body.layers


def to_merge(view: View, me: bytes) -> list[tuple[Cid, ...]]:
    """What this node may try to merge now; nothing while claims wait for verification, or it is another's turn."""
    if len(view.pending) > PENDING_MAX:
        return []
    return [inputs for inputs in candidates(view) if is_my_turn(view, me, f"merge/{inputs[0]}")]


def merging_of(view: View, me: bytes, inputs: Sequence[Cid], rule: str, base: Cid | None) -> Merging | str:
    """The merge that is asked for, or one sentence why there can be none."""
    inputs = tuple(sorted(set(inputs)))
    if rule not in MERGINGS:
        return f"There is no rule {rule[:40]!r} for merging; there are {' and '.join(MERGINGS)}."
    fault = lineage.lineage_fault(view, inputs, base)
    if fault:
        return fault
    first = view.claims[inputs[0]].body
    assert isinstance(first, Absorption), "checked above"
    outside = lineage.outside(view, inputs, state_for(view, me, first.modality))
    if outside:
        names = ", ".join(str(view.claims[cid].body.name) for cid in outside)  # type: ignore[union-attr]
        return f"Not in the state: {names}. A merge takes the place of members; `borg state` lists them."
    work = lineage.merge_work(first, lineage.sources_of(view.claims, inputs, base), rule, base)
    held = terms.holder(view, work)
    if held is not None:
        return f"Already merged by {held}: the same inputs by the same rule."
    return Merging(inputs, lineage.incomes(view, inputs), rule, base)


def words(view: View, merge: Merging) -> tuple[str, str, str]:
    """(name, origin, licence) of a merge, from its inputs': for people."""
    bodies = [view.claims[cid].body for cid in merge.inputs]
    named = [body for body in bodies if isinstance(body, Absorption)]
    licences = sorted({body.licence for body in named})
    origin = f"{merge.merging} of " + ", ".join(str(cid) for cid in merge.inputs)
    return (
        clip(" + ".join(sorted(body.name for body in named)), NAME_BYTES),
        clip(origin, ORIGIN_BYTES),
        clip(
            licences[0] if len(licences) == 1 else " AND ".join(f"({one})" for one in licences), LICENCE_BYTES
        ),
    )
