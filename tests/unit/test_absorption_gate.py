"""The gate: a paired test in whole numbers against the same test in fractions, and what it says in words."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path

import pytest

from spore_borg.views import bank, draw, gate

VECTORS = Path(__file__).parents[2] / "spec" / "vectors" / "gate" / "gate.json"


def by_fractions(before: list[int], after: list[int]) -> str:
    count, differences = len(before), [a - b for a, b in zip(before, after, strict=True)]
    if count < gate.PAIRS_MIN:
        return "unknown"
    mean = Fraction(sum(differences), count)
    variance = sum((d - mean) ** 2 for d in differences) / (count - 1)
    if mean * mean * count <= 4 * variance:  # |t| <= 2; a constant difference other than 0 is beyond it
        return "even"
    level = Fraction(sum(before), count)
    if mean > 0:
        return "better" if mean >= level / 100 else "even"
    return "worse" if -mean >= level / 1000 else "even"


def held_by_fractions(before: list[int], after: list[int]) -> bool:
    """Whether mean(before - after) + mean(before) / 100 lies above 0 by more than two standard errors."""
    count = len(before)
    if count < gate.PAIRS_MIN:
        return False
    margins = [Fraction(101 * a, 100) - b for a, b in zip(before, after, strict=True)]
    mean = sum(margins) / count
    variance = sum((m - mean) ** 2 for m in margins) / (count - 1)
    return mean > 0 and mean * mean * count > 4 * variance


def test_the_integers_say_what_the_fractions_say(rng: random.Random) -> None:
    seen, both = set(), set()
    for _ in range(2_000):
        count, shift, width = rng.randint(0, 16), rng.randint(-30, 30), rng.choice((0, 5, 40, 10**15))
        level = rng.choice((0, 100, 1_000, 20_000))
        before = [10 * width + level + rng.randint(0, 9) for _ in range(count)]
        after = [b - shift - rng.randint(-width, width) for b in before]
        said = gate.weigh(0, "p", before, after)
        assert said.word == by_fractions(before, after), (before, after)
        assert (said.pairs, said.gain) == (count, sum(before) - sum(after))
        assert said.held == held_by_fractions(before, after), (before, after)
        seen.add(said.word)
        both.add((said.word, said.held))
    assert {("even", True), ("even", False), ("worse", True), ("worse", False), ("better", True)} <= both
    assert seen == {"better", "worse", "even", "unknown"}


def test_vectors_of_the_gate() -> None:
    cases = json.loads(VECTORS.read_text())
    assert {case["word"] for case in cases} == {"better", "worse", "even", "unknown"}
    assert {case["held"] for case in cases if case["word"] == "even"} == {True, False}
    for case in cases:
        said = gate.weigh(0, "p", case["before"], case["after"])
        assert (said.word, said.held) == (case["word"], case["held"]), case["name"]
        assert held_by_fractions(case["before"], case["after"]) == case["held"], case["name"]
        assert by_fractions(case["before"], case["after"]) == case["word"], case["name"]


@pytest.mark.parametrize(
    ("per_mille", "word"),
    [(10, "better"), (9, "even"), (6, "even"), (-1, "worse"), (0, "even"), (-20, "worse")],
)
def test_a_steady_change_counts_from_a_hundredth_for_good_and_a_thousandth_for_ill(
    per_mille: int, word: str
) -> None:
    before = [10**9 + n for n in range(16)]
    steady = gate.weigh(0, "p", before, [b - b * per_mille // 1000 - (per_mille > 0) for b in before])
    assert steady.word == word
    assert gate.weigh(0, "p", before, [b + 999_000 for b in before]).word == "even", "less than a thousandth"


def test_every_block_belongs_to_one_unit() -> None:
    blocks = [b for g in range(gate.GROUPS) for i in range(gate.UNITS) for b in gate.unit_blocks(g, i)]
    assert sorted(blocks) == list(range(gate.BLOCKS)) and gate.BLOCKS == 240


def test_half_of_every_group_is_drawn_and_pairs_stay_together() -> None:
    for number in range(20):
        picked = draw.pick_units(bytes([number]) * 32, b"claim")
        assert len(picked) == len(set(picked)) == 120 and picked == tuple(sorted(picked))
        for group in range(gate.GROUPS):
            units = [gate.unit_blocks(group, i) for i in range(gate.UNITS)]
            whole = [set(unit) <= set(picked) for unit in units]
            assert sum(whole) == 8
            assert all(full or not set(unit) & set(picked) for full, unit in zip(whole, units, strict=True))


def test_only_covered_pairs_count() -> None:
    losses = [0] * 16 + [10] * 16 + list(range(16)) + [0] * 192
    covered = {*range(16, 24), *range(32, 40)}
    (only,) = gate.weigh_probes(losses, covered, ["genre"])
    assert (only.name, only.pairs, only.gain) == ("genre", 8, sum(10 - n for n in range(8)))
    (none,) = gate.weigh_probes(losses, range(16, 32))
    assert (none.name, none.pairs, none.word) == ("probe 0", 0, "unknown")


@pytest.mark.parametrize(
    ("words", "passes", "said"),
    [
        (["better", "even"], True, "gets better in a"),
        (["better", "worse"], False, "worse in b"),
        (["even", "even"], False, "no probe beyond the noise"),
        (["unknown"], False, "Too little"),
        ([], False, "No probe has its modality"),
    ],
)
def test_better_somewhere_and_worse_nowhere(words: list[str], passes: bool, said: str) -> None:
    weighed = [gate.Weighed(i, "ab"[i], 8, 0, word) for i, word in enumerate(words)]
    decided, why = gate.decide(weighed)
    assert decided is passes and said in why


@pytest.mark.parametrize(
    ("words", "held", "fewer", "passes", "said"),
    [
        (["even", "even"], [True, True], 1, True, "gets smaller by 1 model and nowhere worse"),
        (["even", "even"], [True, True], 0, False, "no probe beyond the noise"),
        (["even", "even"], [True, False], 2, False, "less than a hundredth in b"),
        (["even", "unknown"], [True, False], 2, False, "less than a hundredth in b"),
        (["even", "worse"], [True, True], 3, False, "worse in b"),
        (["better", "even"], [True, False], 0, True, "gets better in a"),
        ([], [], 1, False, "No probe has its modality"),
    ],
)
def test_what_makes_the_state_smaller_must_show_that_it_does_no_harm(
    words: list[str], held: list[bool], fewer: int, passes: bool, said: str
) -> None:
    weighed = [
        gate.Weighed(i, "ab"[i], 8, 0, word, kept)
        for i, (word, kept) in enumerate(zip(words, held, strict=True))
    ]
    decided, why = gate.decide(weighed, fewer)
    assert decided is passes and said in why


def test_a_set_with_removals_forgets_nothing() -> None:
    held = bank.Bank()
    base = bank.Standing(b"b", b"x" * 32, "text", None, bank.JOINED, "", (), 1)  # type: ignore[arg-type]
    child = bank.Standing(b"c", b"y" * 32, "text", b"b", bank.JOINED, "", (), 2)  # type: ignore[arg-type]
    held.adopt(base)
    held.adopt(child)
    assert held.members() == (b"c",)
    held.retract(b"c")  # type: ignore[arg-type]
    assert held.members() == (b"b",)
    held.drop([b"x" * 32])
    held.drop([b"x" * 32])
    assert held.members() == () and held.digest() is None
    held.retract(b"b")  # type: ignore[arg-type]
    assert {item.word for item in held.standings.values()} == {bank.REMOVED}
