"""Ownership, income, sketches and the character lattice: exact, order-free, and worth something on real text."""

from __future__ import annotations

import math
import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spore_borg.learn import lattice, suite_data
from spore_borg.learn.errors import LearnError
from spore_borg.learn.lattice import Lattice
from spore_borg.learn.sketch import HyperLogLog
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
        n = random.Random(seed).randrange(1, 1 << 50)
        assert lattice.log2_fixed(n) / (1 << 32) == pytest.approx(math.log2(n), abs=1e-8)
    assert lattice.log2_fixed(1) == 0
    assert lattice.log2_fixed(1 << 20) == 20 << 32
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


# Sketches


@pytest.mark.parametrize("size", [0, 1, 50, 3_000, 60_000])
def test_counts_are_within_the_error(size: int) -> None:
    sketch = HyperLogLog(12).update(str(i).encode() for i in range(size))
    assert abs(sketch.count() - size) <= 4 * 1.04 / 64 * size


@given(st.lists(st.sets(st.integers(0, 500)), min_size=1, max_size=5), st.randoms())
def test_joins_are_the_sketch_of_the_union_in_any_order(parts: list[set[int]], rng: random.Random) -> None:
    sketches = [HyperLogLog(6).update(str(i).encode() for i in part) for part in parts]
    whole = HyperLogLog(6).update(str(i).encode() for part in parts for i in part)
    order = [*sketches, sketches[0]]
    rng.shuffle(order)
    joined = order[0]
    for sketch in order[1:]:
        joined = joined.join(sketch)
    assert joined.registers == whole.registers


def test_overlap_of_two_streams() -> None:
    a = HyperLogLog(14).update(str(i).encode() for i in range(20_000))
    b = HyperLogLog(14).update(str(i).encode() for i in range(15_000, 40_000))
    assert abs(a.overlap(b) - 5_000) < 1_200
    with pytest.raises(LearnError):
        a.join(HyperLogLog(12))
    with pytest.raises(LearnError):
        HyperLogLog(12, b"\xff" * 4096)


# The lattice


def _texts() -> list[str]:
    verses = [text for _, text in suite_data.verses()[:6_000]]
    return [" ".join(verses[i::6]) for i in range(6)]


def test_a_lattice_of_real_text_beats_none_and_more_members_beat_one() -> None:
    texts = _texts()
    held = texts[5][:20_000]
    alphabet = len(set("".join(texts)))
    lattices = [Lattice.of(f"m{i}", text) for i, text in enumerate(texts[:5])]
    everyone = lattices[0]
    for one in lattices[1:]:
        everyone = everyone.join(one)
    one = {name: 1 for name in everyone.members()}
    bits = {
        "none": lattice.score({}, held, alphabet),
        "one": lattice.score(lattices[0].weighed(one), held, alphabet),
        "all": lattice.score(everyone.weighed(one), held, alphabet),
    }
    print({name: value / (len(held) - 1) / 2**32 for name, value in bits.items()})
    assert bits["all"] < bits["one"] < 0.7 * bits["none"]
    noise = "".join(random.Random(1).choices(sorted(set(held)), k=60_000))
    mixed = everyone.join(Lattice.of("noise", noise))
    scores = {name: 900 for name in everyone.members()}
    paid = ownership.income({**scores, "noise": 1})
    equal = ownership.income(dict.fromkeys(paid, 1))
    assert lattice.score(mixed.weighed(paid), held, alphabet) < lattice.score(
        mixed.weighed(equal), held, alphabet
    )


@given(st.lists(st.text("abcé口人", max_size=30), min_size=2, max_size=4))
def test_lattices_join_in_any_order_and_survive_json(texts: list[str]) -> None:
    parts = [Lattice.of(f"m{i % 2}", text) for i, text in enumerate(texts)]
    found = set()
    for order in permutations(parts):
        joined = order[0]
        for part in order[1:]:
            joined = joined.join(part).join(part)
        found.add(joined.to_json())
    assert len(found) == 1
    assert Lattice.from_json(found.pop()).to_json() == joined.to_json()


def test_rows_of_other_radicals_are_left_to_their_owner() -> None:
    text = "人口木水火山" * 5
    halves = [Lattice.of("a", text, range(0, 107)), Lattice.of("b", text, range(107, 214))]
    assert not {a for a, _ in halves[0].tau} & {a for a, _ in halves[1].tau}
    whole = Lattice.of("a", text)
    assert halves[0].join(halves[1]).tau.keys() == whole.tau.keys()
    assert whole.sums(("人", "口")) == (5, 1)


def test_radicals_are_those_of_unicode() -> None:
    assert len(lattice.RADICAL_OF) == 214
    assert lattice.radical("一") == 0
    assert lattice.radical("人") == lattice.radical("⼈") == 8
    assert lattice.radical("龠") == 213
    assert 0 <= lattice.radical("x") < 214


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"tau":[["ab","c",[]]],"rho":[]}', '{"tau":[["a","b",[["m",-1]]]],"rho":[]}', '{"tau":1,"rho":[]}',
     '{"tau":[["a","b",[["",1]]]],"rho":[]}', '{"tau":[],"rho":[["a","b",1.5]]}'],
)  # fmt: skip
def test_what_is_no_lattice_is_refused(text: str) -> None:
    with pytest.raises(LearnError):
        Lattice.from_json(text)
