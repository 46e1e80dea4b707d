"""Merges: which absorptions may become one model, how much each counts, and what the merge takes the place of.

Source: PROTOCOL §6; spec/52-merge.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from spore_borg.limits import MERGE_INPUTS_MAX, MERGE_SOURCES_MAX
from spore_borg.records.bodies import INCOME_MAX, ONE, Absorption, Merge, Refinement
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.views import gate, terms, verdicts
from spore_borg.views.bank import absent, replaced

if TYPE_CHECKING:
    from spore_borg.views.reduce import View
    from spore_borg.views.verdicts import Claim

TRUST_CAP = 4 * ONE  # trust above this adds no weight
TRUST_SHIFT = 15  # a unit of the trust's factor is 2^-5
T_ONE = 32  # gain / standard error is counted in 1/32 …
T_MAX = 2 * T_ONE  # … and up to 2
NAME_BYTES_MAX = 200  # of a source in a record
BASE = "base"


def significance(differences: Sequence[int]) -> int:
    """clip(t, 0, 2) in units of 1/32, rounded down; t = mean / standard error of paired differences."""
    count, total = len(differences), sum(differences)
    if count < gate.PAIRS_MIN or total <= 0:
        return 0
    spread = count * sum(d * d for d in differences) - total * total
    if not spread:
        return T_MAX
    return min(T_MAX, math.isqrt(total * total * (count - 1) * T_ONE * T_ONE // spread))


def income(trust: int, losses: Sequence[int], covered: Iterable[int]) -> int:
    """The weight of an absorption in a merge: its author's trust times its verified gain, from 1 to ``INCOME_MAX``.

    Args:
        trust: of the author at the beginning of the round that settled it, in 2^-20.
        losses: the opened losses, those that others recomputed in their place; covered: which these are.
    """
    seen, found = frozenset(covered), []
    for group in range(1, gate.GROUPS):
        pairs = [gate.unit_blocks(group, index) for index in range(gate.UNITS)]
        if any(losses[block] for pair in pairs for block in pair):
            found.append(significance([losses[a] - losses[b] for a, b in pairs if a in seen and b in seen]))
    gain = sum(found) // len(found) if found else 0
    return max(1, min(INCOME_MAX, (min(max(trust, 0), TRUST_CAP) >> TRUST_SHIFT) * gain))


def incomes(view: View, inputs: Sequence[Cid]) -> tuple[int, ...]:
    """The weights of accepted absorptions; they were fixed when the gate decided on each."""
    return tuple(view.bank.standings[cid].income for cid in inputs)


def sources_of(
    claims: Mapping[Cid, Claim], inputs: Sequence[Cid], base: Cid | None
) -> tuple[tuple[str, Cid], ...]:
    """The sources of a merge: each input's files below its number, the base's below ``base``."""
    places = [(f"{number:02d}", cid) for number, cid in enumerate(inputs)]
    places += [] if base is None else [(BASE, base)]
    found = []
    for place, cid in places:
        body = claims[cid].body
        assert isinstance(body, Absorption), "checked before"
        found += [(f"{place}/{name}", blob) for name, blob in body.sources]
    return tuple(sorted(found))


def lineage_fault(view: View, inputs: Sequence[Cid], base: Cid | None) -> str:
    """Why these absorptions cannot be merged, as far as records tell; empty if they can.

    Whether their graphs are the same bytes is known to those who have the files: the worker says it.
    """
    if not 2 <= len(inputs) <= MERGE_INPUTS_MAX or len(set(inputs)) != len(inputs):
        return f"A merge joins 2 to {MERGE_INPUTS_MAX} different models."
    first: Absorption | None = None
    for cid in (*inputs, *(() if base is None else (base,))):
        claim = view.claims.get(cid)
        if claim is None or not isinstance(claim.body, Absorption) or claim.verdict != verdicts.ACCEPTED:
            return f"{cid} is no accepted absorption."
        body = claim.body
        if isinstance(body, Merge):
            return f"{body.name} is a merge itself; name its inputs."
        first = first or body
        for field, what in (
            ("task", "task"), ("head", "head"), ("modality", "modality"), ("rule", "spike code"),
            ("steps", "number of time steps"), ("params_count", "number of weights"), ("layers", "number of layers"),
        ):  # fmt: skip
            if getattr(body, field) != getattr(first, field):
                return f"{body.name} and {first.name} are no lineage: each has another {what}."
    sources = sources_of(view.claims, inputs, base)
    if len(sources) > MERGE_SOURCES_MAX or any(len(name.encode()) > NAME_BYTES_MAX for name, _ in sources):
        return f"Their files are more than {MERGE_SOURCES_MAX}, or a name is too long for a merge."
    return ""


def merges_in(view: View, state: Sequence[Cid]) -> dict[Cid, tuple[Cid, ...]]:
    """Those members of a state that are merges, with their inputs."""
    bodies = {cid: view.claims[cid].body for cid in state}
    return {cid: body.inputs for cid, body in bodies.items() if isinstance(body, Merge)}


def replaced_by(view: View, inputs: Sequence[Cid], state: Sequence[Cid]) -> tuple[Cid, ...]:
    """The members of ``state`` that are gone after a merge of these inputs."""
    return replaced(state, merges_in(view, state), inputs)


def fewer(view: View, inputs: Sequence[Cid], state: Sequence[Cid]) -> int:
    """By how many members a merge of these inputs makes ``state`` smaller."""
    return max(0, len(replaced_by(view, inputs, state)) - 1)


def outside(view: View, inputs: Sequence[Cid], state: Sequence[Cid]) -> list[Cid]:
    """The inputs that such a merge would not find in ``state``."""
    return absent(state, merges_in(view, state), inputs)


def work_of(body: Absorption) -> terms.Work:
    """What a claim does; merges of the same files by another rule are other work."""
    return (
        merge_work(body, body.sources, body.merging, body.base)
        if isinstance(body, Merge)
        else terms.work_of(body)
    )


def merge_work(
    like: Absorption, sources: Iterable[tuple[str, Cid]], merging: str, base: Cid | None
) -> terms.Work:
    """What a merge does; ``like``: it, or one of its inputs."""
    return like.task, tuple(sorted({cid for _, cid in sources})), f"{like.rule} {merging}", like.steps, base


def take_work(view: View, record: Record) -> None:
    """Note what a claim does, so that nobody does it again."""
    view.absorbed[work_of(record.body)] = record.cid
    view.measured[terms.work_of(record.body)] += 1  # by what ``terms.may_measure_again`` asks for


def absorption_fault(view: View, record: Record, body: Absorption) -> str:
    """Why an absorption, refinement or merge cannot be a claim; empty if it can."""
    fault = terms.absorption_fault(view, record, body)
    if fault or not isinstance(body, Merge | Refinement):
        return fault
    if isinstance(body, Refinement):
        merge = isinstance(view.claims[body.base].body, Merge)
        return "Its base is a merge, which has no source of its own to convert better." if merge else ""
    return _merge_fault(view, record, body)


def _merge_fault(view: View, record: Record, body: Merge) -> str:
    fault = lineage_fault(view, body.inputs, body.base)
    if fault:
        return fault
    first = view.claims[body.inputs[0]].body
    assert isinstance(first, Absorption), "checked above"
    for field in ("task", "head", "modality", "rule", "steps"):
        if getattr(body, field) != getattr(first, field):
            return f"Its {field} is not that of its inputs."
    if body.sources != sources_of(view.claims, body.inputs, body.base):
        return "Its sources are not those of its inputs."
    if body.incomes != incomes(view, body.inputs):
        return "Its weights are not what its inputs have earned."
    held = terms.holder(view, work_of(body))
    again = held is not None and (
        terms.may_measure_again(view, held, record.author) or terms.may_offer_again(view, held, body.state)
    )
    if held is not None and not again:
        return f"Already merged by {held}: the same inputs by the same rule."
    return ""
