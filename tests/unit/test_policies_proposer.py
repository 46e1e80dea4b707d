"""Proposals: always valid, never what was tried, the same for the same chance, different for another node."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spore_borg.policies import bandit, deck, tpe
from spore_borg.policies.operators import (
    Trial,
    crossover,
    mutate,
    noise_threshold,
    redraw,
    replicate,
    settle,
    simplest,
)
from spore_borg.policies.proposer import OPERATORS, propose, stagnant
from spore_borg.records.bodies import Task
from spore_borg.views import frontier as frontier_view
from workspace import recipe as recipes

sys.path.insert(0, str(Path(__file__).parent))
from policy_trials import BASELINE, GAIN_MIN, KEYS, SIGMA, SPACE, history, objective, situation, trial

HISTORY = history(40, seed=5)
SEEDS = st.integers(0, 2**32)


def run(seed: int, key: bytes, count: int, trials: list[Trial] | None = None) -> list[Trial]:
    """A node that proposes, runs and has everything accepted at once."""
    rng = random.Random(seed)
    trials = list(trials or [])
    by_cid = {t.cid: t for t in trials}
    for number in range(len(trials), len(trials) + count):
        now = situation(trials, key=key, epoch=number)
        found = propose(now, rng)
        assert found is not None
        assert SPACE.validate(found.recipe) == found.recipe
        assert len(found.bases) <= 2
        assert set(found.bases) <= by_cid.keys()
        assert 0 < len(found.why) <= 280
        assert "\n" not in found.why
        assert len(found.operator.encode()) <= 32
        if found.operator == "replicate":
            assert SPACE.digest(found.recipe) in now.taken
        else:
            assert SPACE.digest(found.recipe) not in now.taken
        base = by_cid[found.bases[0]] if found.bases else None
        noisy = objective(found.recipe) + int(rng.gauss(0, SIGMA))
        made = trial(number, found.recipe, metric=noisy, operator=found.operator, base=base, epoch=number)
        trials.append(made)
        by_cid[made.cid] = made
    return trials


def test_the_first_proposal_is_the_baseline_and_the_next_waits_for_it() -> None:
    rng = random.Random(1)
    first = propose(situation([]), rng)
    assert first is not None
    assert (first.recipe, first.bases, first.operator) == (BASELINE, (), "baseline")
    leased = situation([], taken=frozenset((SPACE.digest(BASELINE),)))
    assert propose(leased, rng) is None
    unverified = trial(0, BASELINE, accepted=False)
    found = propose(situation([unverified]), rng)
    assert found is not None
    assert found.bases == (unverified.cid,)


def test_a_long_search_is_valid_and_improves() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    trials = run(seed, KEYS[0], 70)
    used = Counter(bandit.family(t.operator) for t in trials)
    print(used)
    assert used["random"] >= 2
    assert len(used) >= 4
    assert min(objective(t.recipe) for t in trials) < objective(BASELINE) - 3 * GAIN_MIN


def test_the_same_chance_gives_the_same_decision() -> None:
    def decide(seed: int) -> object:
        return propose(situation(HISTORY), random.Random(seed))

    assert [decide(seed) for seed in range(20)] == [decide(seed) for seed in range(20)]


def test_the_order_of_what_is_known_does_not_matter() -> None:
    shuffled = random.Random(3).sample(HISTORY, len(HISTORY))
    for seed in range(15):
        one, two = (propose(situation(trials), random.Random(seed)) for trials in (HISTORY, shuffled))
        assert one is not None
        assert one == two


def test_nodes_differ_even_with_the_same_chance() -> None:
    pairs = [
        [propose(situation(HISTORY, key=key), random.Random(seed)) for key in KEYS] for seed in range(40)
    ]
    same = sum(one == two for one, two in pairs)
    assert same < 20
    first = [deck.play(SPACE, HISTORY[0], [], frozenset(), bytes([n]) * 32) for n in range(12)]
    assert len({found.operator for found in first if found}) > 6


def test_one_proposal_in_ten_is_random_whatever_the_bandit_says() -> None:
    wins = [
        trial(100 + n, HISTORY[n].recipe, metric=objective(BASELINE) - 50 * GAIN_MIN - n, base=HISTORY[0], epoch=40)
        for n in range(1, 30)
    ]  # fmt: skip
    now = situation([HISTORY[0], *wins], epoch=40)  # mutation could not look better
    found = [propose(now, random.Random(seed)) for seed in range(300)]
    share = sum(p is not None and p.operator == "random" for p in found) / len(found)
    assert 0.05 < share < 0.25
    mutated = sum(p is not None and p.operator == "mutate" for p in found) / len(found)
    assert mutated > 0.5


def test_what_others_are_about_to_run_is_not_proposed() -> None:
    base = HISTORY[0]
    first = deck.play(SPACE, base, [], frozenset(), KEYS[0])
    assert first is not None
    second = deck.play(SPACE, base, [], frozenset((SPACE.digest(first.recipe),)), KEYS[0])
    assert second is not None
    assert second.recipe != first.recipe
    leased = frozenset((SPACE.digest(first.recipe),))
    for seed in range(30):
        found = propose(situation([base], leased=leased), random.Random(seed))
        assert found is not None
        assert SPACE.digest(found.recipe) not in leased


@given(SEEDS, st.sampled_from(KEYS), st.integers(0, len(HISTORY) - 1))
@settings(max_examples=150, deadline=None)
def test_every_operator_gives_valid_recipes(seed: int, key: bytes, at: int) -> None:
    rng, base = random.Random(seed), HISTORY[at]
    for found in (
        mutate(SPACE, base, key, rng), redraw(SPACE, base, key, rng), crossover(SPACE, base, HISTORY, rng)
    ):  # fmt: skip
        if found is None:
            continue
        assert SPACE.validate(found.recipe) == found.recipe
        changed = SPACE.changes(base.recipe, found.recipe)
        assert changed
        assert all(SPACE.active(found.recipe, name) for name in changed)
        assert found.bases[0] == base.cid
        if found.operator == "mutate":
            assert len(changed) <= 3
        if found.operator == "crossover":
            other = next(t for t in HISTORY if t.cid == found.bases[1])
            assert all(found.recipe[name] == other.recipe[name] for name in changed)


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_settling_keeps_as_much_as_can_run(seed: int) -> None:
    rng = random.Random(seed)
    other = dict(BASELINE)
    for name, spec in SPACE.fields.items():
        other[name] = (
            rng.choice([other[name], spec.low, spec.high]) if spec.kind in ("int", "fixed") else other[name]
        )
    other["heads"], other["width"] = rng.choice([1, 3, 8]), rng.choice([16, 48, 80])
    found = settle(SPACE, BASELINE, other)
    if found is not None:
        assert SPACE.validate(found) == found
        assert all(found[name] in (other[name], BASELINE[name]) for name in found)
        try:
            recipes.validate(other, seq_max=128)
        except ValueError:
            assert found != other


def test_idle_changes_are_taken_back() -> None:
    assert settle(SPACE, BASELINE, {**BASELINE, "muon_lr": 1_000}) is None
    both = settle(SPACE, BASELINE, {**BASELINE, "muon_lr": 1_000, "opt": "muon"})
    assert both == {**BASELINE, "muon_lr": 1_000, "opt": "muon"}
    assert settle(SPACE, BASELINE, {**BASELINE, "warmup": 500_000, "warmdown": 900_000, "lr": 5_000}) == {
        **BASELINE, "warmdown": 900_000, "lr": 5_000,
    }  # fmt: skip


def test_every_card_can_be_played_on_some_recipe() -> None:
    names = [card.name for card in deck.CARDS]
    assert len(set(names)) == len(names) >= 30
    start = {**BASELINE, "opt": "muon", "depth": 4, "tie": True, "muon_lr": 25_000, "emb_norm": False,
             "zero_init_proj": False, "act": "gelu", "wd": 50_000}  # fmt: skip
    for card in deck.CARDS:
        assert card.changes.keys() <= SPACE.fields.keys(), card.name
        assert len((deck.PREFIX + card.name).encode()) <= 32
        played = [settle(SPACE, base, deck.apply(SPACE, base, card)) for base in (dict(start), BASELINE)]
        assert any(played), card.name


def test_cards_that_failed_come_later_and_all_are_played_once() -> None:
    base, taken, operators = HISTORY[0], set[bytes](), []
    while found := deck.play(SPACE, base, [], frozenset(taken), KEYS[1]):
        taken.add(SPACE.digest(found.recipe))
        operators.append(found.operator)
    assert len(operators) > 30
    failed = [trial(n, BASELINE, operator=operators[0], base=base) for n in range(50, 52)]
    again = deck.play(SPACE, base, failed, frozenset(), KEYS[1])
    assert again is not None
    assert again.operator == operators[1]


def test_tpe_needs_results_and_uses_them() -> None:
    assert tpe.propose(SPACE, HISTORY[0], HISTORY[: tpe.TRIALS_MIN - 1], random.Random(1)) is None
    refused = [Trial(t.cid, t.recipe, t.metric, t.author, False, t.operator) for t in HISTORY]
    assert tpe.propose(SPACE, HISTORY[0], refused, random.Random(1)) is None
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    drawn = [redraw(SPACE, HISTORY[0], KEYS[0], rng) for _ in range(80)]
    told = [trial(n, p.recipe) for n, p in enumerate(drawn, 1000) if p is not None]
    best = min(told, key=lambda t: t.metric or 0)
    guessed = [tpe.propose(SPACE, best, told, rng) for _ in range(12)]
    values = sorted(objective(p.recipe) for p in guessed if p is not None)
    average = sorted(t.metric or 0 for t in told)[len(told) // 2]
    assert len(values) >= 10
    assert values[len(values) // 2] < average


def test_the_bandit_learns_from_verified_gain_and_forgets() -> None:
    def share(trials: list[Trial], epoch: int) -> float:
        counts = bandit.evidence(trials, OPERATORS, epoch, GAIN_MIN)
        firsts = [bandit.order(counts, KEYS[0], random.Random(seed))[0] for seed in range(300)]
        return firsts.count("mutate") / 300

    base = HISTORY[0]
    assert base.metric is not None
    better, worse = base.metric - 3 * GAIN_MIN, base.metric + GAIN_MIN
    none = share([], 0)
    hits = [trial(n, BASELINE, metric=better, base=base) for n in range(12)]
    claims = [trial(n, BASELINE, metric=better, base=base, accepted=False) for n in range(12)]
    misses = [trial(n, BASELINE, metric=worse, base=base, accepted=False) for n in range(12)]
    crashes = [Trial(t.cid, t.recipe, None, t.author, False, "mutate", t.bases, None) for t in claims]
    assert share(hits, 0) > max(0.8, 2 * none)
    assert share(claims, 0) == none  # a claim earns nothing
    assert share(misses, 0) < none / 2
    assert share(crashes, 0) < none / 2
    assert abs(share(hits, 20 * bandit.HALF_LIFE_EPOCHS) - none) < 0.05
    assert bandit.family("deck:muon") == "deck"
    small = bandit.evidence(
        [trial(1, BASELINE, metric=base.metric - GAIN_MIN, base=base)], OPERATORS, 0, GAIN_MIN
    )
    assert small["mutate"] == (0.5, 0.5)


def test_a_result_within_the_noise_is_replicated_until_it_is_decided() -> None:
    base = trial(0, BASELINE, metric=2_000_000_000)
    recipe = {**BASELINE, "lr": 5_000}

    def runs(gain: int, count: int, accepted: bool = True) -> list[Trial]:
        return [base] + [
            trial(n, recipe, metric=2_000_000_000 - gain, base=base, accepted=accepted) for n in range(1, count + 1)
        ]  # fmt: skip

    def ask(trials: list[Trial]) -> object:
        return replicate(SPACE, base, trials, SIGMA, GAIN_MIN)

    found = replicate(SPACE, base, runs(18_000_000, 1), SIGMA, GAIN_MIN)
    assert found is not None
    assert (found.recipe, found.bases, found.operator) == (recipe, (base.cid,), "replicate")
    assert ask(runs(18_000_000, 1, accepted=False)) is None  # wait for the verdict
    assert ask([*runs(18_000_000, 1), trial(9, recipe, base=base, accepted=False)]) is None
    assert ask(runs(30_000_000, 1)) is None  # clear already
    assert ask(runs(5_000_000, 1)) is None  # no number of seeds within reach would help
    assert ask(runs(-18_000_000, 1)) is None
    assert ask([base]) is None
    leased = situation(runs(18_000_000, 1), leased=frozenset((SPACE.digest(recipe),)))
    for seed in range(40):
        proposal = propose(leased, random.Random(seed))
        assert proposal is not None
        assert proposal.operator != "replicate"


@pytest.mark.parametrize("runs", [1, 2, 5, 17])
@pytest.mark.parametrize("rivals", [1, 3])
@pytest.mark.parametrize("sigma", [0, 1, 4_999_999, 5_000_000])
def test_the_noise_threshold_is_that_of_the_frontier(runs: int, rivals: int, sigma: int) -> None:
    class Noise:
        gain_min = 7

    noise = Noise()
    noise.sigma = sigma  # type: ignore[attr-defined]
    task: Task = noise  # type: ignore[assignment]
    assert noise_threshold(sigma, 7, runs, rivals) == frontier_view.threshold(task, runs, rivals)


def test_of_equal_results_the_simplest_is_preferred() -> None:
    plain, fancy = {**BASELINE, "lr": 5_000}, {**BASELINE, "lr": 5_000, "x0_skip": True, "wd": 0}
    trials = [trial(1, fancy, metric=1_000), trial(2, plain, metric=1_005), trial(3, BASELINE, metric=2_000)]
    assert simplest(SPACE, BASELINE, trials, noise=10) == trials[1]
    assert simplest(SPACE, BASELINE, trials, noise=4) == trials[0]
    assert simplest(SPACE, BASELINE, trials, noise=1_000) == trials[2]
    assert simplest(SPACE, BASELINE, [], noise=4) is None


def test_stagnation_is_three_flat_windows() -> None:
    base = HISTORY[0]
    assert base.metric is not None
    flat = [trial(n, BASELINE, metric=base.metric + 1, base=base, epoch=n) for n in range(24)]
    assert stagnant(flat)
    assert not stagnant(flat[:23])
    assert not stagnant([*flat, trial(99, BASELINE, metric=base.metric - 1, base=base, epoch=20)])
    assert stagnant([*flat, trial(99, BASELINE, metric=base.metric - 1, base=base, epoch=-1)])
