"""Which operator to try next: discounted Thompson sampling, whose credit is verified gain.

Every operator has a Beta posterior of its chance to bring a gain. Evidence halves every ``HALF_LIFE_EPOCHS``, so that
an operator that is mined out, or fertile again, is noticed. Drawing from the posterior, instead of taking its best,
keeps nodes that see the same results from all trying the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spore_borg.policies.operators import Rng, Trial, taste

HALF_LIFE_EPOCHS = 240
PRIOR_HITS = 0.5
PRIOR_MISSES = 2.0  # most experiments bring nothing
FULL_CREDIT_GAINS = 2  # a gain of so many times the smallest that counts is a full hit


def family(operator: str) -> str:
    """The operator that a record's text names: what stands before the colon."""
    return operator.partition(":")[0]


def evidence(
    trials: Iterable[Trial], operators: Sequence[str], epoch_now: int, gain_min: int
) -> dict[str, tuple[float, float]]:
    """Discounted (hits, misses) of every operator.

    An accepted gain is a hit, in part if it is small. A loss or a crash is a miss at once: nobody gains by claiming
    one. A claimed gain without a verdict counts as nothing yet. Results without a base say nothing about an operator.
    """
    counts = {name: (0.0, 0.0) for name in operators}
    for trial in trials:
        name = family(trial.operator)
        if name not in counts:
            continue
        gain = -1 if trial.metric is None else trial.gain
        if gain is None or (gain > 0 and not trial.accepted):
            continue
        weight = 0.5 ** (max(0, epoch_now - trial.epoch) / HALF_LIFE_EPOCHS)
        hit = min(1.0, max(0, gain) / (FULL_CREDIT_GAINS * max(1, gain_min)))
        hits, misses = counts[name]
        counts[name] = hits + weight * hit, misses + weight * (1 - hit)
    return counts


def order(counts: dict[str, tuple[float, float]], key: bytes, rng: Rng) -> list[str]:
    """The operators, best draw first. The node's key tilts the prior, so that nodes begin differently."""
    drawn = {
        name: rng.betavariate(PRIOR_HITS + hits, (PRIOR_MISSES + misses) / (0.5 + taste(key, name)))
        for name, (hits, misses) in counts.items()
    }
    return sorted(drawn, key=lambda name: (-drawn[name], name))
