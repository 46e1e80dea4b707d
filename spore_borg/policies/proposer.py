"""What this node runs next: one decision from everything that is known about a task in a hardware class.

A portfolio of operators (deck, mutation, TPE, crossover, random, replication); a bandit orders them, and a share of all
proposals is random whatever the bandit says. A proposal is always valid, and never a recipe that someone has run
or is about to run, except to replicate it on purpose. Source: LEARN §2; spec/60-research.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from spore_borg.policies import bandit, deck, tpe
from spore_borg.policies.operators import (
    Proposal,
    Recipe,
    Rng,
    Space,
    Trial,
    crossover,
    mutate,
    one_line,
    redraw,
    replicate,
)

OPERATORS = ("deck", "mutate", "tpe", "crossover", "random", "replicate")
RANDOM_SHARE = 0.10  # of all proposals, at least
RANDOM_SHARE_STAGNANT = 0.30  # when nothing has helped for a while
WINDOW_TRIALS = 8
FLAT_WINDOWS = 3  # so many windows without an accepted gain are stagnation
ATTEMPTS = 8  # draws of one operator before the next has its turn
LAST_ATTEMPTS = 200  # random draws before there is nothing left to propose


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision rests on, for one task and hardware class.

    Attributes:
        space: of recipes. baseline: where the task starts.
        trials: every experiment known, in any order. frontier: its accepted steps, the best last.
        taken: digests of recipes that are run, or leased by an intent, by anyone. leased: those by an intent only.
        sigma, gain_min: noise of one run and smallest gain that counts, in the task's unit.
        epoch: now. key: the node's public key; makes nodes search differently.
    """

    space: Space
    baseline: Recipe
    trials: Sequence[Trial]
    frontier: Sequence[Trial]
    taken: frozenset[bytes]
    sigma: int
    gain_min: int
    epoch: int
    key: bytes
    leased: frozenset[bytes] = field(default_factory=frozenset)


def propose(now: Situation, rng: Rng) -> Proposal | None:
    """Decide what to run next.

    Args:
        now: everything known. rng: the only source of chance; the same state of it gives the same decision.
    Returns:
        A proposal; None while nobody's result is here to start from, or when no new recipe was found.
    """
    base = _base(now)
    if base is None:
        if now.space.digest(now.baseline) in now.taken:
            return None  # someone is running it: wait for the result
        why = one_line("The baseline of the task: everything else is measured against it.")
        return Proposal(now.space.validate(dict(now.baseline)), (), "baseline", why)
    taken = now.taken | {now.space.digest(trial.recipe) for trial in now.trials} | now.leased
    share = RANDOM_SHARE_STAGNANT if stagnant(now.trials) else RANDOM_SHARE
    forced = rng.random() < share
    counts = bandit.evidence(now.trials, OPERATORS, now.epoch, now.gain_min)
    ranked = bandit.order(counts, now.key, rng)
    if forced:
        ranked = ["random", *(name for name in ranked if name != "random")]
    for name in ranked:
        found = _attempt(now, name, base, taken, rng, ATTEMPTS)
        if found is not None:
            return found
    return _attempt(now, "random", base, taken, rng, LAST_ATTEMPTS)


def _attempt(
    now: Situation, name: str, base: Trial, taken: frozenset[bytes], rng: Rng, attempts: int
) -> Proposal | None:
    """One operator's proposal, if it has one that nobody has run."""
    if name == "replicate":
        found = replicate(now.space, base, now.trials, now.sigma, now.gain_min) if base.accepted else None
        return found if found and now.space.digest(found.recipe) not in now.leased else None
    if name == "deck":
        return deck.play(now.space, base, now.trials, taken, now.key)
    for _ in range(1 if name == "tpe" else attempts):
        if name == "mutate":
            found = mutate(now.space, base, now.key, rng)
        elif name == "tpe":
            found = tpe.propose(now.space, base, now.trials, rng)
        elif name == "crossover":
            found = crossover(now.space, base, now.trials, rng)
        else:
            found = redraw(now.space, base, now.key, rng)
        if found is not None and now.space.digest(found.recipe) not in taken:
            return found
    return None


def _base(now: Situation) -> Trial | None:
    """The best accepted result; before there is one, a run of the baseline; before that, any result."""
    if now.frontier:
        return now.frontier[-1]
    done = [trial for trial in now.trials if trial.metric is not None]
    start = now.space.digest(now.baseline)
    return min(done, key=lambda t: (now.space.digest(t.recipe) != start, t.metric or 0, t.cid), default=None)


def stagnant(trials: Sequence[Trial]) -> bool:
    """Whether the last windows of trials brought no accepted gain."""
    newest = sorted(trials, key=lambda t: (-t.epoch, t.cid))[: WINDOW_TRIALS * FLAT_WINDOWS]
    if len(newest) < WINDOW_TRIALS * FLAT_WINDOWS:
        return False
    return not any(trial.accepted and (trial.gain or 0) > 0 for trial in newest)
