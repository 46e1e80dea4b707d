"""Why a record cannot be a claim at all, one sentence each; whatever passes is verified.

Source: PROTOCOL §4; spec/40-verification.md §1, spec/51-absorption-and-state.md §2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spore_borg.limits import REMEASURES_MAX
from spore_borg.records.bodies import Absorption, Experiment, Refinement, Task
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.views import budget, seeds, verdicts
from spore_borg.views.bank import REFUSED, STALE
from spore_borg.views.gate import BLOCKS, SEGMENTS

if TYPE_CHECKING:
    from spore_borg.views.reduce import View

Work = tuple[Cid, tuple[Cid, ...], str, int, Cid | None]


def takes_absorptions(task: Task) -> bool:
    """Whether a task's claims are absorptions, and not experiments."""
    return task.spec.get("kind") == "absorption"


def take_suite(view: View, record: Record) -> None:
    """Of each evaluator the first task of a root is the mesh's absorption task; until then a trusted node's first."""
    task: Task = record.body
    if not takes_absorptions(task) or (task.blocks, task.segments) != (BLOCKS, SEGMENTS):
        return
    held = view.suites.get(task.evaluator)
    rooted = held is not None and view.dag.records[view.dag.index[held]].author in view.ledger.roots
    trusted = bool(view.ledger.trust.get(record.author))
    if (held is None and trusted) or (not rooted and record.author in view.ledger.roots):
        view.suites[task.evaluator] = record.cid


def experiment_fault(view: View, record: Record, body: Experiment, round_: int) -> str:
    """Why an experiment cannot be a claim; empty if it can. Remembers its seed's witnesses on the way."""
    task = view.tasks.get(body.task)
    if task is None:
        return "Its task is not an acknowledged record."
    if takes_absorptions(task):
        return "Its task takes absorptions, not experiments."
    if any(base not in view.claims and base not in view.crashed for base in body.bases):
        return "A base is not an acknowledged experiment."
    if any(view.body_of(base).task != body.task for base in body.bases):
        return "A base belongs to another task."
    if body.loss_sum is None or body.metric != body.loss_sum // task.val_bytes:
        return "Its metric is not the sum of its losses."
    if len(body.states) != task.segments - 1 or body.steps < task.segments:
        return "It does not have the task's number of segments."
    fault = _fingerprint_fault(view, record)
    if fault:
        return fault
    return seeds.fault(view, record) or _copy_fault(view, record, body, round_)


def _fingerprint_fault(view: View, record: Record) -> str:
    member = view.members.get(record.author)
    if member is None or member.join is None or member.fingerprint() != record.body.fingerprint:
        return "Its fingerprint is not the one that its author joined with."
    return ""


def _copy_fault(view: View, record: Record, body: Experiment, round_: int) -> str:
    """One run is claimed once. Claims of one round by two authors both stand: their seeds tell who ran it."""
    first = view.runs.get((body.task, body.params or b""))
    if first is None or (first[0] == round_ and first[1] != record.author):
        return ""
    whose = "of its own author" if first[1] == record.author else "of another author"
    return f"Its weights are those of an earlier claim {whose}: a run counts once."


def work_of(body: Absorption) -> Work:
    """What an absorption does, whoever does it: the same work is done once in a mesh."""
    sources = tuple(sorted({cid for _, cid in body.sources}))
    return body.task, sources, body.rule, body.steps, body.base if isinstance(body, Refinement) else None


def absorption_fault(view: View, record: Record, body: Absorption) -> str:
    """Why an absorption or refinement cannot be a claim; empty if it can."""
    task = view.tasks.get(body.task)
    if task is None:
        return "Its task is not an acknowledged record."
    if view.suites.get(task.evaluator) != body.task:
        return "Its task is not the mesh's task for absorptions."
    if budget.fault(task, body):
        return budget.fault(task, body)
    if body.groups[-1] >= task.segments:
        return "It names more layer groups than its task has."
    if isinstance(body, Refinement):
        base = view.claims.get(body.base)
        if base is None or base.verdict != verdicts.ACCEPTED or not isinstance(base.body, Absorption):
            return "Its base is no accepted absorption."
        if work_of(base.body)[:2] != work_of(body)[:2]:
            return "Its base is an absorption of another source."
        if (base.body.rule, base.body.steps) != (body.rule, body.steps):
            return "Its base has another rule or other time steps."
    for cid in body.state:
        claim = view.claims.get(cid)
        if claim is None or not isinstance(claim.body, Absorption):
            return "A member of its state is no acknowledged absorption."
        if claim.body.modality != body.modality:
            return "A member of its state has another modality."
        if cid not in view.bank.standings and cid not in view.bank_solo.standings:
            return "A member of its state is not verified."  # what verifiers must load has been loaded before
    return _fingerprint_fault(view, record) or _duplicate_fault(view, record, body)


def _duplicate_fault(view: View, record: Record, body: Absorption) -> str:
    first = holder(view, work_of(body))
    if first is None:
        return ""
    if may_measure_again(view, first, record.author) or may_offer_again(view, first, body.state):
        return ""
    return f"Already absorbed by {first}: the same source, rule and time steps."


def holder(view: View, work: Work) -> Cid | None:
    """The record that has this work already, whatever its gate said; None if it is free."""
    held = view.absorbed.get(work)
    if held is None or held in view.bank.retracted or view.ledger.account(view.claims[held].author).banned:
        return None
    return None if view.claims[held].verdict in (verdicts.REFUTED, verdicts.VOID) else held


def may_measure_again(view: View, cid: Cid, author: bytes) -> bool:
    """Whether a claim was measured against a state that has moved on, and its author may claim it once more."""
    claim = view.claims[cid]
    return _word(view, cid) == STALE and claim.author == author and _tries_left(view, claim.body) > 0


def may_offer_again(view: View, cid: Cid, state: Sequence[Cid]) -> bool:
    """Whether anybody may offer once more what the gate refused: the state has other members since, and is ``state``.

    At most once for each change, since the next offer then holds the work, and as often as a work may be measured.
    """
    claim = view.claims[cid]
    body = claim.body
    if _word(view, cid) != REFUSED or not isinstance(body, Absorption) or _tries_left(view, body) <= 0:
        return False
    bank = view.bank_solo if claim.verdict == verdicts.SOLO else view.bank
    return body.state not in (tuple(state), bank.members(body.modality))


def why_taken(view: View, cid: Cid) -> str:
    """What became of the claim that has a work, and when it may be offered again: for whoever asks for it anew."""
    claim, word = view.claims[cid], _word(view, cid)
    if word == STALE:
        return "The state had other members than when it was measured; its author's node measures it again."
    if word != REFUSED:
        return ""
    bank = view.bank_solo if claim.verdict == verdicts.SOLO else view.bank
    when = (
        "It can be offered again when the state of its modality has other members."
        if _tries_left(view, claim.body) > 0
        else f"It was measured {REMEASURES_MAX + 1} times, and will not be again."
    )
    return f"{bank.standings[cid].why} {when}"


def _word(view: View, cid: Cid) -> str:
    """Where a claim stands in the state that knows it; empty where nothing is decided."""
    bank = view.bank_solo if view.claims[cid].verdict == verdicts.SOLO else view.bank
    standing = bank.standings.get(cid)
    return "" if standing is None else standing.word


def _tries_left(view: View, body: Experiment | Absorption) -> int:
    """How often a work may still be claimed after the first time."""
    return REMEASURES_MAX + 1 - view.measured[work_of(body)] if isinstance(body, Absorption) else 0
