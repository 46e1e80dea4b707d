"""What a node adds to a character lattice next: which slices it reads, which rows it writes, whose lattices it joins.

Pure. The rows of a range of radicals have one writer at a time, by rendezvous hashing weighted by trust, so that nodes
share out the work. Settings are searched by the same operators as any recipe; what is read follows from what the bases
have not. Source: "SGS.ai Kibbutz" §1; spec/53-lattice.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from spore_borg.policies import proposer
from spore_borg.policies.merging import is_my_turn
from spore_borg.policies.operators import Proposal, Recipe, Rng, Trial, one_line, pick, taste
from spore_borg.policies.proposer import Situation
from spore_borg.records.cid import Cid
from spore_borg.views.lattices import RANGES, READABLE, joined, slices_of
from spore_borg.views.reduce import View

READ_SHARE = 0.5  # of the proposals that only read on, while there is something left to read
MERGE_SHARE = 0.2  # of those that only join what others have read
ATTEMPTS = 12
Read = Mapping[int, int]  # slice → ranges of rows that were read, one bit each


def own_ranges(view: View, me: bytes, task: Cid) -> int:
    """The ranges of rows that this node writes now, one bit each; never none.

    A node whose turn no range is takes one by its key: whoever reads a slice finds the same counts, so two writers of
    one range waste work but cannot contradict each other.
    """
    mine = sum(1 << n for n in range(RANGES) if is_my_turn(view, me, f"lattice/{task}/{n}"))
    return mine or 1 << hashlib.sha256(b"spore-borg/range\0" + me).digest()[0] % RANGES


def reads(trials: Sequence[Trial]) -> dict[Cid, dict[int, int]]:
    """What the lattice of each experiment holds: its own reading and that of its bases, as far as they are known."""
    by_cid = {trial.cid: trial for trial in trials}
    found: dict[Cid, dict[int, int]] = {}
    waiting = list(by_cid)
    while waiting:
        trial = by_cid[waiting[-1]]
        open_ = [base for base in trial.bases if base in by_cid and base not in found]
        if open_ and trial.cid not in found:
            waiting += open_
            continue
        waiting.pop()
        own = dict.fromkeys(slices_of(trial.recipe), int(trial.recipe["rows"]))
        found[trial.cid] = joined([own, *(found[base] for base in trial.bases if base in found)])
    return found


def unread(read: Read, ranges: int) -> int:
    """How many of these ranges of all slices have not been read."""
    return sum((ranges & ~read.get(number, 0)).bit_count() for number in range(READABLE))


def propose(now: Situation, ranges: int, params: Mapping[Cid, str], rng: Rng) -> Proposal | None:
    """Decide what to run next.

    Args:
        now: everything known of the task. ranges: this node's. params: experiment → digest of its published lattice.
    Returns:
        A proposal whose recipe nobody has run; None when none was found.
    """
    known = reads(now.trials)
    base = now.frontier[-1] if now.frontier else _first(now.trials)
    for _ in range(ATTEMPTS):
        if base is None:
            why = "The first of its lattice: everything else is joined with what has been read."
            found: Proposal | None = Proposal(now.space.validate(dict(now.baseline)), (), "baseline", why)
        else:
            found = _wanted(now, base, ranges, known, rng)
        if found is None:
            continue
        finished = _finished(found, now.key, ranges, known, params, rng)
        if now.space.digest(finished.recipe) not in now.taken:
            return finished
    return None


def _first(trials: Sequence[Trial]) -> Trial | None:
    done = [trial for trial in trials if trial.metric is not None]
    return min(done, key=lambda trial: (trial.metric or 0, trial.cid), default=None)


def _wanted(now: Situation, base: Trial, ranges: int, known: Mapping[Cid, Read], rng: Rng) -> Proposal | None:
    """Read on, join with another's reading, or search the settings."""
    left = unread(known[base.cid], ranges)
    draw = rng.random()
    if left and draw < READ_SHARE:
        why = f"reads on: {left} of {READABLE * ranges.bit_count()} rows' ranges of slices are unread"
        return Proposal(dict(base.recipe), (base.cid,), "read", one_line(why))
    if draw < READ_SHARE + MERGE_SHARE:
        other = _partner(now.trials, base, known)
        if other is not None:
            why = f"joined with what {str(other.cid)[-8:]} has read"
            return Proposal(dict(base.recipe), (base.cid, other.cid), "merge", why)
    return proposer.propose(replace(now, frontier=(base,)), rng)


def _partner(trials: Sequence[Trial], base: Trial, known: Mapping[Cid, Read]) -> Trial | None:
    """The accepted result that has read most of what the base has not."""

    def news(trial: Trial) -> int:
        mine = known[base.cid]
        return sum((ranges & ~mine.get(number, 0)).bit_count() for number, ranges in known[trial.cid].items())

    others = [trial for trial in trials if trial.accepted and trial.metric is not None and news(trial)]
    return max(others, key=lambda trial: (news(trial), trial.cid), default=None)


def _finished(
    found: Proposal, key: bytes, ranges: int, known: Mapping[Cid, Read], params: Mapping[Cid, str], rng: Rng
) -> Proposal:
    """The proposal with what is given and not searched: rows, bases, and slices that the bases have not read."""
    bases = tuple(base for base in found.bases if base in params)
    read = joined([known[base] for base in bases if base in known])
    recipe: Recipe = {
        **found.recipe, "rows": ranges, "bases": ",".join(params[base] for base in bases),
    }  # fmt: skip
    news = {start: _news({**recipe, "slice": start}, ranges, read) for start in range(READABLE)}
    most = max(news.values())
    if most:  # nodes begin at different places, so that they read different things
        best = [start for start in range(READABLE) if news[start] == most]
        recipe["slice"] = max(best, key=lambda start: taste(key, f"slice {start}"))
    elif not bases:
        recipe["slice"] = pick(rng, range(READABLE))
    return replace(found, recipe=recipe, bases=bases)


def _news(recipe: Recipe, ranges: int, read: Read) -> int:
    return sum((ranges & ~read.get(number, 0)).bit_count() for number in slices_of(recipe))
