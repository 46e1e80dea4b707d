"""Seeds that nobody chooses: an intent declares a run before the values exist that its seed is mixed of.

A *witness* of an intent is the first seal of another trusted node that has the intent in its past. Its onion value
was fixed when that node joined, and nobody but that node knew it when the intent was signed. So the order of causes
is the clock: whoever back-dates an intent or holds it back gets no earlier witness for it.
Source: docs/adr/0015; spec/40-verification.md §1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spore_borg.limits import OPEN_INTENTS_MAX
from spore_borg.records.bodies import Experiment, Intent
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.views.settle import recipe_digest

if TYPE_CHECKING:
    from spore_borg.views.dag import Dag
    from spore_borg.views.reduce import View

WITNESS_EPOCHS = 3  # epochs after its intent's in which a seal can be a witness
RIPE_EPOCHS = 16  # epochs after its intent's in which a seed can ripen
OPEN_ROUNDS = 20  # rounds for which an intent without an experiment takes one of its author's places
LATE_ROUNDS = 2  # between an intent's own epoch and its acknowledgement, as for claims
ELECTORATE_AGE = 2  # epochs: the seals of so long ago have come, unless somebody held them back
ELECTORATES_KEPT = 5  # rounds; an intent that is not late needs none that is older

Run = tuple[bytes, Cid, tuple[Cid, ...], bytes]  # author, task, bases, digest of the recipe


@dataclass(frozen=True, slots=True)
class Electorate:
    """Who was trusted, live and joined after a round: trust, and the join that fixed the onion.

    Attributes:
        epoch: the round's.
    """

    epoch: int
    trust: Mapping[bytes, int]
    joins: Mapping[bytes, Record]


NOBODY = Electorate(-1, {}, {})


@dataclass(frozen=True, slots=True)
class Promise:
    """An acknowledged intent.

    Attributes:
        round: in which it was acknowledged.
        fault: why it gives no seed; empty if it does.
    """

    record: Record
    round: int
    electorate: Electorate
    fault: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """A seed and what it is mixed of.

    Attributes:
        seed: 8 bytes, big-endian.
        witnesses: cids of the seals, in ascending order of their authors' keys; none for a lone author.
    """

    seed: bytes
    witnesses: tuple[Cid, ...]


def run_of(author: bytes, body: Intent | Experiment) -> Run:
    """What an intent declares, or an experiment did."""
    digest = body.recipe if isinstance(body, Intent) else recipe_digest(body.recipe)
    return author, body.task, body.bases, digest


def mix(intent: bytes, values: list[bytes]) -> bytes:
    """The 8 bytes of a seed: the intent's cid and the witnesses' onion values, in ascending order of their keys."""
    return hashlib.sha256(b"spore-borg/seed\0" + intent + b"".join(values)).digest()[:8]


def others(voters: Electorate, author: bytes) -> dict[bytes, int]:
    """Who can witness an author's intents, with their trust; nobody if the author is alone."""
    return {who: amount for who, amount in voters.trust.items() if who != author}


# ---- what the fold keeps


def close_round(view: View, epoch: int, live: set[bytes]) -> None:
    """Remember who can witness intents, as this round leaves it."""
    trust = {who: amount for who, amount in view.ledger.trust.items() if amount and who in live}
    joins = {who: member.join for who, member in view.members.items() if who in trust and member.join}
    kept = Electorate(epoch, {who: trust[who] for who in joins}, joins)
    view.electorates = [*view.electorates[1 - ELECTORATES_KEPT :], kept]


def electorate(view: View, epoch: int) -> Electorate | None:
    """Whose seals can witness an intent of this epoch; None if that is forgotten: the intent would be late."""
    old = [kept for kept in view.electorates if kept.epoch <= epoch - ELECTORATE_AGE]
    if old:
        return old[-1]
    return NOBODY if len(view.electorates) == len(view.rounds) else None


def take_intent(view: View, record: Record, round_: int, rounds_before: int) -> None:
    """An acknowledged intent.

    Args:
        rounds_before: number of rounds with an epoch before the intent's.
    """
    who, run = record.author, run_of(record.author, record.body)
    places = view.open_intents[who] = [
        cid for cid in view.open_intents.get(who, ()) if view.promises[cid].round > round_ - OPEN_ROUNDS
    ]
    fault = ""
    if round_ - rounds_before > LATE_ROUNDS:
        fault = "Its intent was shown too late after its own epoch."
    elif any(run_of(who, view.promises[cid].record.body) == run for cid in places):
        fault = "Its author had declared the same run before, and had not shown a result."
    elif len(places) >= OPEN_INTENTS_MAX:
        fault = f"Its author had declared {OPEN_INTENTS_MAX} other runs and shown no result of them."
    else:
        places.append(record.cid)
    view.promises[record.cid] = Promise(record, round_, electorate(view, record.epoch) or NOBODY, fault)


def take_experiment(view: View, record: Record) -> None:
    """The first acknowledged experiment of a declared run uses its intent up, whatever becomes of it."""
    promise = view.promises.get(record.body.intent)
    if promise is None or _stranger(promise, record) or record.body.intent in view.used:
        return
    view.used[record.body.intent] = record.cid
    places = view.open_intents.get(record.author, [])
    if record.body.intent in places:
        view.open_intents[record.author] = [cid for cid in places if cid != record.body.intent]


def lapsed(view: View) -> dict[bytes, tuple[int, int]]:
    """By author: acknowledged intents, and how many of them led to no experiment within their lease."""
    now = view.rounds[-1].epoch if view.rounds else 0
    counts: dict[bytes, tuple[int, int]] = {}
    for cid, promise in view.promises.items():
        made, nothing = counts.get(promise.record.author, (0, 0))
        over = cid not in view.used and promise.record.body.until < now
        counts[promise.record.author] = made + 1, nothing + over
    return counts


# ---- an experiment's seed


def fault(view: View, record: Record) -> str:
    """Why an experiment's seed is not the one that it had to use; empty if it is. Remembers the witnesses."""
    body: Experiment = record.body
    promise = view.promises.get(body.intent)
    if promise is None or promise.record.author != record.author:
        return "It names no intent of its author."
    if _stranger(promise, record):
        return "Its intent declares another run: the task, the bases or the recipe differ."
    if promise.fault:
        return promise.fault
    if view.used.get(body.intent, record.cid) != record.cid:
        return "Its intent's seed was used by an earlier experiment."
    drawn = draw(view, promise.record, promise.electorate, record.prev)
    if drawn is None:
        return "It was signed before its intent had a seed: too few others had sealed since."
    if drawn.seed != body.seed:
        return "Its seed is not the one that its intent got."
    view.witnesses[record.cid] = drawn.witnesses
    return ""


def ripe(view: View, intent: Record, last: Cid | None) -> Drawn | None:
    """The seed of an own intent, as soon as the author's records up to ``last`` fix it. Changes nothing in the view."""
    promise = view.promises.get(intent.cid)
    voters = promise.electorate if promise is not None else electorate(view, intent.epoch)
    if voters is None or (promise is not None and promise.fault):
        return None
    if not others(voters, intent.author):
        return Drawn(mix(intent.cid, []), ())
    return draw(view, intent, voters, last, keep=False) if intent.cid in view.dag.index else None


def draw(
    view: View, intent: Record, voters: Electorate, last: Cid | None, *, keep: bool = True
) -> Drawn | None:
    """The seed of an intent as its author's chain shows it, and nothing else.

    Args:
        last: the author's newest record that counts: an experiment's ``prev``.
        keep: whether onion values that fit may be remembered; not outside a fold.
    Returns:
        None while the seed does not exist, or if ``last`` does not follow the intent in its author's chain.
    """
    chain, trust = _chain(view.dag, intent, last), others(voters, intent.author)
    if chain is None:
        return None
    if not trust:
        return Drawn(mix(intent.cid, []), ())
    total = sum(trust.values())
    for seals in _seen(view.dag, intent, chain, trust):
        found = {}
        for who, records in seals.items():
            first = min(records, key=lambda r: (r.seq, r.cid))
            if first.epoch <= intent.epoch + WITNESS_EPOCHS and view.fits(
                voters.joins[who], first.epoch, first.body.value, keep=keep
            ):
                found[who] = first
        again = [who for who in found if any(other.seq > found[who].seq for other in seals[who])]
        weight = sum(trust[who] for who in again)
        if 2 * weight > total:
            values = [found[who].body.value for who in sorted(found)]
            return Drawn(mix(intent.cid, values), tuple(found[who].cid for who in sorted(found)))
    return None


def _stranger(promise: Promise, record: Record) -> bool:
    """Whether an experiment is another run than its intent declares."""
    return run_of(record.author, record.body) != run_of(promise.record.author, promise.record.body)


def _chain(dag: Dag, intent: Record, last: Cid | None) -> list[int] | None:
    """Positions of the author's records after the intent, oldest first; None if ``last`` is in another chain."""
    start, chain = dag.index[intent.cid], list[int]()
    while last is not None:
        at = dag.index[last]
        if at == start:
            return chain[::-1]
        if dag.records[at].seq <= intent.seq:
            return None
        chain.append(at)
        last = dag.records[at].prev
    return None


def _seen(
    dag: Dag, intent: Record, chain: list[int], trust: Mapping[bytes, int]
) -> Iterator[dict[bytes, list[Record]]]:
    """After each of these records of the author: the others' seals in its past that have the intent in theirs."""
    start = dag.index[intent.cid]
    visited, knows = {start}, {start}
    seals: dict[bytes, list[Record]] = {}
    for own in chain:
        if dag.records[own].epoch > intent.epoch + RIPE_EPOCHS:
            return
        fresh, stack = [], [own]
        while stack:
            at = stack.pop()
            # what cannot have the intent in its past is not walked into: it came before, or beside it in an older epoch
            if at in visited or dag.depth[at] <= dag.depth[start] or dag.records[at].epoch < intent.epoch:
                continue
            visited.add(at)
            fresh.append(at)
            stack += dag.past[at]
        for at in sorted(fresh):  # every record follows its past
            if any(past in knows for past in dag.past[at]):
                knows.add(at)
                record = dag.records[at]
                if record.kind == "seal" and record.author in trust:
                    seals.setdefault(record.author, []).append(record)
        yield seals
