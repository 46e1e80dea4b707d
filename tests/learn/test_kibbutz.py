"""Ownership and income: exact, in proportion, whole. The lattice is in tests/unit/test_lattice.py."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spore_borg.policies import ownership

# Ownership and income


def test_ownership_is_in_proportion_to_weight() -> None:
    members = {"a": 1, "b": 2, "c": 5}
    count = 4_000
    owned = {name: 0 for name in members}
    for i in range(count):
        owned[ownership.owner(f"shard/{i}", 7, members)] += 1
    for name, weight in members.items():
        share = weight / 8
        assert abs(owned[name] - share * count) < 4 * math.sqrt(share * (1 - share) * count), owned


def test_a_member_that_leaves_moves_only_its_own_ranges() -> None:
    members = {f"node{i}": i + 1 for i in range(6)}
    fewer = {name: weight for name, weight in members.items() if name != "node3"}
    before = {i: ownership.owner(str(i), 1, members) for i in range(300)}
    after = {i: ownership.owner(str(i), 1, dict(reversed(fewer.items()))) for i in range(300)}
    assert all(after[i] == before[i] for i in range(300) if before[i] != "node3")
    assert len({ownership.owner("x", epoch, members) for epoch in range(60)}) > 3


def test_the_logarithm_is_that_of_real_numbers() -> None:
    for seed in range(200):
        u = random.Random(seed).randrange(1 << 64)
        exact = 64 - math.log2(u + 1)
        assert ownership._minus_log2(u) / (1 << 48) == pytest.approx(exact, abs=1e-11)
    assert ownership._minus_log2((1 << 64) - 1) == 0


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(-5, 10**9), max_size=9))
def test_income_shares_out_everything_and_caps(scores: dict[str, int]) -> None:
    shares = ownership.income(scores)
    earning = [name for name in scores if scores[name] > 0]
    assert sum(shares.values()) == (ownership.INCOME_ONE if earning else 0)
    assert all(shares[name] == 0 for name in scores if name not in earning)
    if earning:
        limit = max(ownership.INCOME_ONE // 4, -(-ownership.INCOME_ONE // len(earning)))
        assert max(shares.values()) <= limit
    assert shares == ownership.income(dict(reversed(scores.items())))


def test_bad_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="without members"):
        ownership.owner("x", 1, {})
    with pytest.raises(ValueError, match="whole number"):
        ownership.owner("x", 1, {"a": 0})
    with pytest.raises(ValueError, match="share"):
        ownership.income({"a": 1}, cap=0)
