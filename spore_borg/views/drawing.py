"""Who is drawn to verify a claim, in a round: from trust, presence, stated capacity and onion values.

Source: PROTOCOL §4; spec/40-verification.md §3, spec/51-absorption-and-state.md §3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spore_borg.records.bodies import Absorption
from spore_borg.views import budget, draw, verdicts

if TYPE_CHECKING:
    from spore_borg.views.reduce import View
    from spore_borg.views.verdicts import Claim


def draw_claim(
    view: View, claim: Claim, round_: int, epoch: int, trusted: dict[bytes, int], live: set[bytes]
) -> None:
    """Draw a waiting claim's verifiers, if there are enough of them in this round.

    Args:
        trusted: trust of every node at the beginning of the round; live: nodes that sealed lately.
    """
    joined = {who for who, member in view.members.items() if member.join is not None}
    others = sorted(who for who in trusted if who != claim.author and who in joined)
    if not others:
        claim.settle(verdicts.SOLO, round_, "Its author is alone: nobody else could verify it.")
        return
    claim.candidates = budget.able(view, claim, others)
    claim.twins = tuple(
        who for who in claim.candidates if view.members[who].fingerprint() == claim.body.fingerprint
    )
    awake = [who for who in claim.candidates if who in live]
    values = {who: view.value(who, epoch) for who in view.dag.seals[epoch] if who in view.members}
    taken_on = budget.enough(trusted, others, claim.candidates)
    if not taken_on or not awake or not _draw_probes(view, claim, values, trusted, awake):
        claim.probes, claim.shadows = {}, {}
        why = "No trusted node was awake to verify it." if taken_on else budget.waits(claim)
        claim.reason = "It waits for a trusted node that is awake and can verify it." if taken_on else why
        if round_ >= (claim.deadline() or 0):
            claim.settle(verdicts.VOID, round_, why)
        return
    claim.round_drawn = round_
    claim.quorum = min(verdicts.QUORUM, len(awake))
    names = len(claim.probes)
    claim.enter("drawn", round_, f"{names} node(s) are drawn and recompute parts of it.")


def _draw_probes(
    view: View, claim: Claim, values: dict[bytes, bytes | None], trusted: dict[bytes, int], awake: list[bytes]
) -> bool:
    task, body, total = claim.task, claim.body, sum(trusted[who] for who in claim.candidates)
    twin_total = sum(trusted[who] for who in claim.twins)
    outcome, replay = [], []
    for who in awake:
        value = values.get(who)
        if value is None:
            continue
        if draw.drawn(value, claim.cid, "outcome", draw.K1, trusted[who], total, len(claim.candidates)):
            outcome.append(who)
        if who in claim.twins and draw.drawn(
            value, claim.cid, "replay", draw.K2, trusted[who], twin_total, len(claim.twins)
        ):
            replay.append(who)
    claim.new_author = not trusted.get(claim.author)
    claim.alone_class = not any(who in claim.twins for who in awake)
    whole = claim.new_author or claim.evaded
    dealt = draw.share_out(replay, claim.parts) if whole and replay else {}
    for who in budget.able(view, claim, sorted(values)):
        value = values[who]
        if value is None or who == claim.author:
            continue
        is_drawn = who in outcome or who in replay
        twin = view.members[who].fingerprint() == body.fingerprint
        segments = dealt.get(who) if who in replay else (None if twin and not is_drawn else ())
        probe = draw.probe(
            value, claim.cid, blocks=task.blocks, segments=task.segments, steps=claim.inner_steps, parts=claim.parts,
            outcome=who in outcome or not is_drawn, replay=segments, grouped=isinstance(body, Absorption),
        )  # fmt: skip
        if probe.blocks or probe.segments:  # more verifiers than segments: the last ones have nothing to do
            (claim.probes if is_drawn else claim.shadows)[who] = probe
    enough = len(claim.probes) >= min(verdicts.QUORUM, len(awake))
    return enough and (bool(replay) or claim.alone_class)
