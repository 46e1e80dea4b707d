"""Tree-structured Parzen estimator over everyone's accepted results (Optuna), told anew for every proposal.

Source: Bergstra et al. 2011; optuna.samplers.TPESampler. Optuna is imported only when a proposal is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spore_borg.policies.operators import (
    FieldSpec,
    Proposal,
    Recipe,
    Rng,
    Space,
    Trial,
    proposal_on,
    rounded,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TRIALS_MIN = 8  # with fewer results the estimator is no better than chance
TRIALS_MAX = (
    300  # the best half and the newest half of these; telling the sampler more costs time, not quality
)


def propose(space: Space, base: Trial, trials: Sequence[Trial], rng: Rng) -> Proposal | None:
    """What the estimator expects to improve on the accepted results; None while there are too few."""
    known = _chosen([trial for trial in trials if trial.accepted and trial.metric is not None])
    if len(known) < TRIALS_MIN:
        return None
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(spec) for name, spec in space.fields.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the multivariate estimator
        sampler = optuna.samplers.TPESampler(
            seed=rng.getrandbits(31), n_startup_trials=TRIALS_MIN, multivariate=True
        )
        study = optuna.create_study(sampler=sampler, direction="minimize")
        for trial in known:
            assert trial.metric is not None, "chosen above"
            study.add_trial(
                optuna.trial.create_trial(
                    params={name: trial.recipe[name] for name in distributions},
                    distributions=distributions,
                    value=float(trial.metric),
                )
            )
        drawn = study.ask(distributions).params
    wanted: Recipe = dict(base.recipe)
    for name, spec in space.fields.items():
        value = drawn[name]
        wanted[name] = rounded(spec, value) if spec.kind in ("int", "fixed") else value
    text = f"what {len(known)} accepted results make likely"
    return proposal_on(space, base, wanted, "tpe", text)


def _chosen(trials: list[Trial]) -> list[Trial]:
    """At most ``TRIALS_MAX``: the best and the newest, in order of cid so that every node tells the same story."""
    if len(trials) > TRIALS_MAX:
        best = sorted(trials, key=lambda t: (t.metric or 0, t.cid))[: TRIALS_MAX // 2]
        newest = sorted(trials, key=lambda t: (-t.epoch, t.cid))[: TRIALS_MAX // 2]
        trials = list({trial.cid: trial for trial in best + newest}.values())
    return sorted(trials, key=lambda t: t.cid)


def _distribution(spec: FieldSpec) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if spec.kind == "bool":
        return CategoricalDistribution((False, True))
    if spec.kind == "choice":
        return CategoricalDistribution(spec.choices)
    return IntDistribution(spec.low, spec.high, log=spec.log and spec.low > 0)
