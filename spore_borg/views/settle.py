"""What a verdict changes: the frontier, the ledger, dead keys.

Source: PROTOCOL §5; spec/50-reputation.md.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from spore_borg.records.bodies import ONE
from spore_borg.views import evidence as ev
from spore_borg.views import reputation as rep
from spore_borg.views import verdicts
from spore_borg.views.verdicts import Claim

if TYPE_CHECKING:
    from spore_borg.views.reduce import View


def recipe_digest(recipe: dict[str, int | bool | str]) -> bytes:
    """The 32-byte key under which runs of one recipe are pooled: sha256 of its sorted, compact JSON."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).digest()


def book_verdict(view: View, claim: Claim, round_: int) -> None:
    """Carry a settled claim's consequences into the view."""
    key = (claim.target.body.task, claim.body.family)
    recipe = recipe_digest(claim.body.recipe)
    metric, cid, author = claim.body.metric or 0, claim.target.cid, claim.author
    if claim.verdict == verdicts.ACCEPTED:
        step, why = view.frontiers[key].offer(claim.task, cid, recipe, author, metric, round_)
        if cid not in view.pooled:
            view.pooled.add(cid)
            view.solo[key].offer(claim.task, cid, recipe, author, metric, round_)
        view.frontier_why[cid] = why
        _pay_author(view, claim, step)
    elif claim.verdict == verdicts.SOLO:
        if cid not in view.pooled and author in view.ledger.roots:
            view.pooled.add(cid)
            _, why = view.solo[key].offer(claim.task, cid, recipe, author, metric, round_)
            view.frontier_why[cid] = why + " Nobody else has verified it."
    elif claim.verdict == verdicts.REFUTED:
        view.ledger.ban(author, "fraud", claim.cid, f"A claim of this key was refuted. {claim.reason}")
    _pay_verifiers(view, claim)


def _pay_author(view: View, claim: Claim, step: bool) -> None:
    amount = rep.CREDIT_STEP if step else rep.CREDIT_NEGATIVE
    if claim.alone_class:
        amount //= 2  # nobody of its fingerprint could replay it
    rule = "frontier step" if step else "audited result"
    text = (
        "Others confirmed an improvement of the frontier."
        if step
        else "Others confirmed a result that is no improvement."
    )
    view.ledger.earn(claim.author, rule, amount, claim.target.cid, text)


def _pay_verifiers(view: View, claim: Claim) -> None:
    """Correct evidence earns its share of compute, drawn or not; wrong or missing evidence costs."""
    if claim.verdict not in (verdicts.ACCEPTED, verdicts.REFUTED):
        return
    listed = {item.author for item in claim.listed()}
    for who, item in sorted(claim.evidence.items()):
        if item.reveal is None:
            if who in listed:
                view.ledger.lose(
                    who,
                    "no-show",
                    (98, 100),
                    claim.target.cid,
                    "It committed to evidence and did not reveal it.",
                )
            continue
        if item.finding is not None:
            _pay_one(view, claim, who, item.finding, item.reveal.cid)
    for who in sorted(set(claim.probes) - set(claim.evidence)):
        view.ledger.lose(
            who, "no-show", (98, 100), claim.target.cid, "It was drawn and delivered no evidence."
        )
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


def _pay_one(view: View, claim: Claim, who: bytes, finding: ev.Finding, cause: bytes) -> None:
    said = claim.ruling.get(who)
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
    if finding.word == "void" or (claim.verdict == verdicts.ACCEPTED and finding.word == "fail"):
        return
    probe = claim.probes.get(who) or claim.shadows[who]
    amount = (rep.SHARE_OUTCOME_PROBE if probe.blocks else 0) + ONE * len(
        probe.segments
    ) // claim.task.segments
    view.ledger.earn(
        who,
        "verification",
        amount,
        cause,
        "It recomputed a part of a claim, and the numbers agree with the verdict.",
    )
