"""What a verdict changes: the frontier, the state, the ledger, dead keys.

Source: PROTOCOL §5; spec/50-reputation.md, spec/51-absorption-and-state.md.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from spore_borg.records.bodies import ONE, Absorption, Experiment, Refinement
from spore_borg.views import gate, lineage, verdicts
from spore_borg.views import reputation as rep
from spore_borg.views.bank import JOINED, STALE
from spore_borg.views.verdicts import Claim, Evidence

if TYPE_CHECKING:
    from spore_borg.views.reduce import View


def recipe_digest(recipe: dict[str, int | bool | str]) -> bytes:
    """The 32-byte key under which runs of one recipe are pooled: sha256 of its sorted, compact JSON."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).digest()


def settling_order(claim: Claim) -> tuple[int, bytes]:
    """Claims of one round in the order in which they are booked: absorptions by the state they build on."""
    return len(claim.body.state) if isinstance(claim.body, Absorption) else 0, claim.cid


def book_verdict(view: View, claim: Claim, round_: int) -> None:
    """Carry a settled claim's consequences into the view."""
    if isinstance(claim.body, Absorption):
        _book_absorption(view, claim, claim.body, round_)
    else:
        _book_experiment(view, claim, claim.body, round_)
    if claim.verdict == verdicts.REFUTED:
        view.ledger.ban(claim.author, "fraud", claim.cid, f"A claim of this key was refuted. {claim.reason}")
    _pay_verifiers(view, claim)


def _book_absorption(view: View, claim: Claim, body: Absorption, round_: int) -> None:
    cid, author = claim.target.cid, claim.author
    if claim.verdict == verdicts.ACCEPTED:
        losses, covered = _verified_losses(claim)
        earned = lineage.income(view.ledger.trust.get(author, 0), losses, covered)
        standing = view.bank.offer(cid, author, body, round_, lambda: _weighed(view, claim, body), earned)
        view.bank_solo.adopt(standing)  # in place of its author's word
        view.frontier_why[cid] = standing.why
        joined = standing.word == JOINED
        if standing.word != STALE and not (joined and view.bank.repaid(author)):
            _pay_author(view, claim, joined)
    elif claim.verdict == verdicts.SOLO and author in view.ledger.roots:
        view.frontier_why[cid] = view.bank_solo.offer(cid, author, body, round_, None).why


def _verified_losses(claim: Claim) -> tuple[list[int], set[int]]:
    """The losses of an accepted claim, and the blocks that passing evidence covers.

    The verifiers' own numbers are taken, not the author's, so that a bias below the tolerance moves nothing.
    """
    assert claim.opening is not None, "what is accepted was opened"
    found = _recomputed(claim)
    return [found.get(block, loss) for block, loss in enumerate(claim.opening.body.losses)], set(found)


def _weighed(view: View, claim: Claim, body: Absorption) -> list[gate.Weighed]:
    """What passing evidence shows of a claim's probes, and of a refinement's fidelity."""
    losses, covered = _verified_losses(claim)
    weighed = gate.weigh_probes(losses, covered, gate.probe_names(claim.task.spec))
    if isinstance(body, Refinement):
        before = _fidelity(view.claims[body.base])
        own = [before.get(block, 0) for block in range(gate.UNITS)]
        weighed.append(gate.weigh_fidelity(own, losses, covered & before.keys()))
    return weighed


def _fidelity(base: Claim) -> dict[int, int]:
    """Fidelity block → loss of a base: what others found, and for the rest its author's word where a twin tested it.

    An author opens all 16 losses before it knows which are drawn, and a twin's evidence passes only if they are right
    to the task's tolerance: who lies in some of them is found by chance, and loses its key. Without a twin only what
    was recomputed counts, since the far tolerance tests little. Source: spec/51, section 5.
    """
    assert base.opening is not None, "what is accepted was opened"
    found = _recomputed(base)
    passed = {
        item.author for item in base.listed() if item.finding is not None and item.finding.word == "pass"
    }
    if not passed.isdisjoint(base.twins):
        for block, loss in enumerate(base.opening.body.losses[: gate.UNITS]):
            found.setdefault(block, loss)
    return found


def _recomputed(claim: Claim) -> dict[int, int]:
    """Block → its loss by passing evidence: of twins where they have it, else of others; the mean of several."""
    found: dict[int, list[tuple[bool, int]]] = {}
    for item in claim.listed():
        if item.finding is not None and item.finding.word == "pass" and item.reveal is not None:
            for block, loss in item.reveal.body.losses:
                found.setdefault(block, []).append((item.author in claim.twins, loss))
    means = {}
    for block, said in found.items():
        values = [loss for twin, loss in said if twin] or [loss for _, loss in said]
        means[block] = sum(values) // len(values)
    return means


def _book_experiment(view: View, claim: Claim, body: Experiment, round_: int) -> None:
    key = (body.task, body.family)
    recipe = recipe_digest(body.recipe)
    metric, cid, author = body.metric or 0, claim.target.cid, claim.author
    if claim.verdict == verdicts.ACCEPTED:
        step, why = view.frontiers[key].offer(claim.task, cid, recipe, author, metric, round_)
        if cid not in view.pooled:
            view.pooled.add(cid)
            view.solo[key].offer(claim.task, cid, recipe, author, metric, round_)
        view.frontier_why[cid] = why
        _pay_author(view, claim, step)
    elif claim.verdict == verdicts.SOLO and cid not in view.pooled and author in view.ledger.roots:
        view.pooled.add(cid)
        _, why = view.solo[key].offer(claim.task, cid, recipe, author, metric, round_)
        view.frontier_why[cid] = why + " Nobody else has verified it."


def _pay_author(view: View, claim: Claim, step: bool) -> None:
    absorbed = isinstance(claim.body, Absorption)
    if absorbed and not step:
        return  # models that help nowhere are cheap to make: paid, they would be a way to earn trust by junk
    amount = rep.CREDIT_STEP if step else rep.CREDIT_NEGATIVE
    if claim.alone_class:
        amount //= 2  # nobody of its fingerprint could replay it
    rule = ("state member" if absorbed else "frontier step") if step else "audited result"
    what = "state" if absorbed else "frontier"
    text = (
        f"Others confirmed an improvement of the {what}."
        if step
        else "Others confirmed a result that is no improvement."
    )
    view.ledger.earn(claim.author, rule, amount, claim.target.cid, text)


def _pay_verifiers(view: View, claim: Claim) -> None:
    """Correct evidence earns its share of compute, drawn or not; wrong or missing evidence costs."""
    if claim.verdict not in (verdicts.ACCEPTED, verdicts.REFUTED):
        return
    # only what was committed before the opening is evidence: afterwards the author's numbers can be copied
    answered = set(claim.opening.body.commits) if claim.opening is not None else set()
    answers = [(who, item) for who, item in sorted(claim.evidence.items()) if item.commit.cid in answered]
    right = sum(who in claim.shadows and _is_right(claim, item) for who, item in answers)
    for who, item in answers:
        if item.finding is not None and item.reveal is not None and item.finding.word != "void":
            _pay_one(view, claim, item, rep.SHARE_SHADOWS // max(1, right) if who in claim.shadows else None)
        elif who in claim.probes:
            text = "It committed to evidence and did not reveal what it was asked for."
            view.ledger.lose(who, "no-show", (98, 100), claim.target.cid, text)
    on_time = {who for who, _ in answers} if claim.opening is not None else set(claim.evidence)
    for who in sorted(set(claim.probes) - on_time):
        text = "It was drawn and committed to no evidence before the claim was opened."
        view.ledger.lose(who, "no-show", (98, 100), claim.target.cid, text)
    for who in sorted(claim.jury):
        item = claim.jury[who]
        agreed = claim.ruling.get(who) == ("clear" if claim.verdict == verdicts.ACCEPTED else "fraud")
        if item.reveal is not None and agreed:
            view.ledger.earn(
                who,
                "jury",
                rep.SHARE_OUTCOME_PROBE,
                item.reveal.cid,
                "It recomputed what a dispute was about.",
            )


def _is_right(claim: Claim, item: Evidence) -> bool:
    """Whether evidence agrees with the verdict: a pass of what was accepted, no clearing of what was refuted."""
    if item.finding is None or item.finding.word == "void":
        return False
    if claim.verdict == verdicts.REFUTED:
        return claim.ruling.get(item.author) != "clear"
    return item.finding.word == "pass" and claim.ruling.get(item.author) != "fraud"


def _pay_one(view: View, claim: Claim, item: Evidence, most: int | None) -> None:
    """Pay or charge for one node's evidence; ``most``: what it can earn at most, if it was not drawn."""
    assert item.reveal is not None, "checked by the caller"
    who, cause, said = item.author, item.reveal.cid, claim.ruling.get(item.author)
    if claim.verdict == verdicts.REFUTED and said == "clear":
        view.ledger.lose(
            who, "passed a fraud", (1, 2), cause, "Its evidence vouched for what a jury refuted."
        )
        return
    if claim.verdict == verdicts.ACCEPTED and said == "fraud":
        view.ledger.lose(
            who, "wrong accusation", (9, 10), cause, "Its evidence accused an author whom a jury cleared."
        )
        return
    if not _is_right(claim, item):
        return
    probe = claim.probes.get(who) or claim.shadows[who]
    amount = (rep.SHARE_OUTCOME_PROBE if probe.blocks else 0) + ONE * len(
        probe.segments
    ) // claim.task.segments
    view.ledger.earn(
        who,
        "verification",
        amount if most is None else min(amount, most),
        cause,
        "It recomputed a part of a claim, and the numbers agree with the verdict.",
    )
