"""A made-up task for the tests of the policies: the real space of recipes, a smooth objective for training."""

from __future__ import annotations

import random
from math import log

from spore_borg.policies import deck
from spore_borg.policies.operators import Proposal, Recipe, Space, Trial, space_of
from spore_borg.policies.proposer import Situation
from spore_borg.records.cid import Cid
from workspace import recipe as recipes

SPACE: Space = space_of(recipes, deck.NEEDS, seq_max=128)
BASELINE: Recipe = dict(recipes.BASELINE_PICO)
SIGMA, GAIN_MIN = 5_000_000, 10_000_000  # nano-bits per byte
KEYS = (b"a" * 32, b"b" * 32)

_OPTIMUM = {
    "lr": 6_000,
    "emb_lr_mult": 3_000_000,
    "muon_lr": 30_000,
    "init_std": 30_000,
    "batch": 8,
    "rope_base": 500,
}
_SWITCHES = {"opt": "muon", "value_embed": True, "x0_skip": True, "act": "swiglu", "width": 64}


def objective(recipe: Recipe) -> int:
    """Lower is better: a bowl in the logarithms of some fields, and a reward for some switches."""
    bowl = sum(log(int(recipe[name]) / best) ** 2 for name, best in _OPTIMUM.items())
    switches = sum(recipe[name] != value for name, value in _SWITCHES.items())
    return int(1e9 * (2.1 + 0.02 * bowl + 0.02 * switches + 0.2 * (int(recipe["beta2"]) / 1e6 - 0.98) ** 2))


def trial(
    number: int, recipe: Recipe, *, metric: int | None = None, accepted: bool = True, operator: str = "mutate",
    base: Trial | None = None, epoch: int = 0,
) -> Trial:  # fmt: skip
    """An experiment; its metric is the objective unless it is given."""
    metric = objective(recipe) if metric is None else metric
    gain = None if base is None or base.metric is None else base.metric - metric
    cid = Cid.of(number.to_bytes(8, "big"))
    return Trial(
        cid, recipe, metric, KEYS[0], accepted, operator, (base.cid,) if base else (), gain, epoch
    )  # fmt: skip


def situation(
    trials: list[Trial], *, key: bytes = KEYS[0], epoch: int = 0, **changes: frozenset[bytes]
) -> Situation:
    """What a node knows when these trials are all there is; the frontier is the accepted trial with the best metric."""
    accepted = [t for t in trials if t.accepted and t.metric is not None]
    best = sorted(accepted, key=lambda t: -(t.metric or 0))[-1:]
    taken = frozenset(SPACE.digest(t.recipe) for t in trials)
    return Situation(
        SPACE, BASELINE, trials, best, **{"taken": taken, **changes}, sigma=SIGMA, gain_min=GAIN_MIN, epoch=epoch,
        key=key,
    )  # fmt: skip


def history(count: int, seed: int) -> list[Trial]:
    """A baseline and accepted random walks from it."""
    from spore_borg.policies.operators import mutate

    rng = random.Random(seed)
    trials = [trial(0, BASELINE, operator="baseline")]
    while len(trials) < count:
        base = rng.choice(trials)
        found: Proposal | None = mutate(SPACE, base, KEYS[0], rng)
        if found is not None:
            trials.append(trial(len(trials), found.recipe, base=base, epoch=len(trials)))
    return trials
