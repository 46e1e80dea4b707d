"""The character lattice: joins in any order, rows with owners, codes that add up, files in one form."""

from __future__ import annotations

import json
import math
import random
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workspace import lattice, lattice_model, lattice_recipe, radicals, sketch
from workspace.lattice import DataError, Lattice, Published
from workspace.lattice_data import codes_of

SIZE = 4_000  # characters of a slice here


def read(text: str, slice_: int, ranges: int = radicals.ALL_RANGES) -> Lattice:
    """The lattice of one slice with this text."""
    codes = codes_of(text)
    keys, counts = lattice.counted(codes, slice_, ranges)
    flags = np.zeros(lattice.SLICES, np.int64)
    flags[slice_] = ranges
    return Lattice(keys, counts, flags, sketch.of(codes))


def same(a: Lattice, b: Lattice) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("keys", "counts", "read", "seen")
    )


def raw_of(one: Lattice, **changes: Any) -> bytes:
    """The file of a lattice, or of one with other tensors."""
    made = Published(one, (0, 0, 0), bytes(32))
    about = lattice.encode(made.tensors() | changes, {})
    return made.encode(SIZE) if not changes else about


def settings_of(**changes: Any) -> dict[str, Any]:
    return {**lattice_recipe.BASELINE, **changes}


# ---- sketches


@pytest.mark.parametrize("size", [0, 1, 50, 3_000, 60_000, 400_000])
def test_counts_of_a_sketch_are_within_its_error(size: int) -> None:
    codes = np.random.default_rng(size).integers(0, 0x110000, size + 3 if size else 0)
    assert abs(sketch.count(sketch.of(codes)) - size) <= 4 * sketch.ERROR_PPM / 1e6 * size


def test_a_sketch_is_that_of_the_runs_of_four_whatever_the_order() -> None:
    rng = random.Random(5)
    texts = ["".join(rng.choices("abcdefgh", k=200)) for _ in range(3)]
    parts = [sketch.of(codes_of(text)) for text in texts]
    joined = {bytes(sketch.join(sketch.join(a, b), c)) for a, b, c in permutations(parts)}
    assert len(joined) == 1
    runs = {text[i : i + 4] for text in texts for i in range(len(text) - 3)}
    assert abs(sketch.count(np.frombuffer(joined.pop(), np.uint8)) - len(runs)) < 0.08 * len(runs)
    assert not sketch.of(codes_of("abc")).any()


def test_the_estimate_agrees_with_ertls_in_floating_point() -> None:
    def sigma(x: float) -> float:
        y, z = 1.0, x
        while True:
            x *= x
            before, z = z, z + x * y
            y += y
            if z == before:
                return z

    m, q = sketch.REGISTERS, sketch.Q
    for size in (10, 1_000, 9_000, 15_000, 200_000):
        registers = sketch.of(np.random.default_rng(size).integers(0, 0x110000, size + 3))
        counts = np.bincount(registers, minlength=q + 2)
        assert not counts[q + 1]
        z = 0.0
        for rank in range(q, 0, -1):
            z = 0.5 * (z + counts[rank])
        exact = m * m / (2 * math.log(2) * (z + m * sigma(counts[0] / m)))
        assert abs(sketch.count(registers) - exact) <= 1


# ---- counts


@given(st.lists(st.text("abcé口人木", max_size=30), min_size=2, max_size=4))
def test_lattices_join_in_any_order_and_any_number_of_times(texts: list[str]) -> None:
    parts = [read(text, number) for number, text in enumerate(texts)]
    found = set()
    for order in permutations(parts):
        joined = order[0]
        for part in order[1:]:
            joined = lattice.join(lattice.join(joined, part), part)
        found.add(raw_of(joined))
    assert len(found) == 1
    assert same(lattice.published(found.pop(), SIZE).lattice, joined)


def test_rows_of_other_ranges_are_left_to_their_writer() -> None:
    text = "人口木水火山the quick brown fox" * 5
    whole = read(text, 3)
    parts = [read(text, 3, 1 << number) for number in range(radicals.RANGES)]
    assert sum(len(part.keys) for part in parts) == len(whole.keys)
    assert len({int(code) for part in parts for code in part.firsts}) == len(set(text[:-1]))
    joined = parts[0]
    for part in parts[1:]:
        assert not set(joined.firsts.tolist()) & set(part.firsts.tolist())
        joined = lattice.join(joined, part)
    assert same(joined, whole)


def test_radicals_are_those_of_unicode() -> None:
    assert radicals.radical(ord("一")) == 0 and radicals.radical(ord("龠")) == 213
    assert radicals.radical(ord("人")) == radicals.radical(ord("⼈")) == radicals.radical(ord("他")) == 8
    assert radicals.radical(ord("松")) == radicals.radical(ord("木")) == 74
    assert {radicals.radical(code) for code in range(0x4E00, 0xA000)} == set(range(214))
    assert {radicals.range_of(ord(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"} == set(range(8))


def test_reading_a_slice_in_pieces_counts_the_same() -> None:
    text = codes_of("in the beginning was the word, 太初有道。" * 20)
    whole = lattice.counted(text, 7, 255)
    keys, counts = lattice.counted(text, 7, 255, 1, 100)
    for begin in range(100, len(text), 77):
        keys, counts = lattice.added(
            keys, counts, *lattice.counted(text, 7, 255, begin, min(begin + 77, len(text)))
        )
    assert np.array_equal(keys, whole[0]) and np.array_equal(counts, whole[1])


# ---- the code


def test_logarithms_are_those_of_real_numbers() -> None:
    rng = random.Random(2)
    numbers = [
        1,
        2,
        3,
        (1 << 62) - 1,
        (1 << 63) - 1,
        *(rng.randrange(1, 1 << rng.randrange(1, 63)) for _ in range(500)),
    ]
    found = lattice_model.log2(np.array(numbers, np.int64))
    for number, length in zip(numbers, found.tolist(), strict=True):
        assert length / 2**32 == pytest.approx(math.log2(number), abs=2e-9)
    assert lattice_model.log2(np.array([1 << 20])).tolist() == [20 << 32]


@pytest.mark.parametrize("backoff", ["sums", "kinds"])
@pytest.mark.parametrize("exclusion", [0, 200, 1_024])
@pytest.mark.parametrize("weights", ["equal", "income"])
def test_the_probabilities_after_each_character_add_up_to_one(
    backoff: str, exclusion: int, weights: str
) -> None:
    one = lattice.join(read("the cat sat on the mat. 道可道，非常道。", 0), read("the dog sat on the log", 1))
    recipe = settings_of(backoff=backoff, exclusion=exclusion, escape=7)
    model = lattice_model.model(
        one, recipe, lattice_model.weights(one, weights, codes_of("the hat on the cat"))
    )
    known = model.ends.tolist()
    for first in (*"th e道q",):
        pairs = np.array([ord(first) << 21 | second for second in known], np.int64)
        lengths = lattice_model.lengths(model, pairs) / 2**32
        never = lattice_model.lengths(model, np.array([ord(first) << 21 | 0x10FFFF])) / 2**32
        mass = float((2.0**-lengths).sum() + (lattice_model.ALPHABET - len(known)) * 2.0 ** -float(never[0]))
        assert mass == pytest.approx(1, abs=1e-7)


def test_more_reading_and_exclusion_shorten_the_code_of_other_text() -> None:
    rng = random.Random(3)
    words = ["the", "then", "there", "other", "rather", "道", "天地", "天下"]
    texts = [" ".join(rng.choices(words, k=150)) for _ in range(5)]
    held = codes_of(texts[4])
    parts = [read(text, number) for number, text in enumerate(texts[:4])]
    everything = parts[0]
    for part in parts[1:]:
        everything = lattice.join(everything, part)
    equal = np.full(64, lattice_model.WEIGHT_ONE, np.int64)

    def cost(one: Lattice, weights: Any = equal, **changes: Any) -> int:
        return lattice_model.length(lattice_model.model(one, settings_of(**changes), weights), held)

    assert cost(everything) < cost(parts[0]) < cost(lattice.empty()) / 2
    noise = read("".join(rng.choices(sorted(set("".join(texts))), k=3_000)), 9)
    mixed = lattice.join(everything, noise)
    paid = lattice_model.weights(mixed, "income", codes_of(texts[3]))
    assert paid[9] < paid[0] and cost(mixed, paid) < cost(mixed)


def test_the_largest_lattice_fits_63_bits() -> None:
    """All 4 Mi characters in one pair, at the largest weight and escape."""
    full = Lattice(
        np.array([ord("a") << 27 | ord("b") << 6 | n for n in range(63)]),
        np.full(63, lattice.CHARACTERS_MAX // 64, np.int64), np.zeros(64, np.int64), sketch.empty(),
    )  # fmt: skip
    recipe = settings_of(escape=256, smoothing=65_536, exclusion=1_024)
    model = lattice_model.model(full, recipe, np.full(64, lattice_model.WEIGHT_MAX, np.int64))
    assert (int(model.totals.max()) + model.smoothing) * model.volume < 1 << 63
    likely, unlikely = lattice_model.lengths(model, np.array([97 << 21 | 98, 97 << 21 | 99])).tolist()
    assert 0 <= likely < 1 << 20 and 30 << 32 < unlikely < 63 << 32


# ---- files


def test_a_lattice_has_one_file() -> None:
    one = read("the cat sat on the mat", 4)
    raw = raw_of(one)
    back = lattice.published(raw, SIZE)
    assert same(back.lattice, one) and back.encode(SIZE) == raw and len(back.params) == 32
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    text = "the cat sat on the mat"
    assert int(header["runs"]) == len({text[i : i + 4] for i in range(len(text) - 3)})
    assert (header["characters"], header["entries"]) == ("4000", str(len(one.keys)))


GOOD = read("the cat sat on the mat", 4)
BAD: dict[str, dict[str, Any]] = {
    "order": {"keys": GOOD.keys[::-1].copy()},
    "twice": {"keys": np.sort(np.concatenate((GOOD.keys[:-1], GOOD.keys[:1])))},
    "negative key": {"keys": GOOD.keys - GOOD.keys.max()},
    "no character": {"keys": GOOD.keys + (0x110000 << 27)},
    "zero": {"counts": np.zeros(len(GOOD.keys), np.int32)},
    "more than a slice": {"counts": np.full(len(GOOD.keys), SIZE, np.int32)},
    "one count less": {"counts": GOOD.counts[:-1].astype(np.int32)},
    "foreign rows": {"read": np.where(np.arange(64) == 4, 1, 0).astype(np.uint8)},
    "nothing read": {"read": np.zeros(64, np.uint8)},
    "the slice of the weights": {"read": np.full(64, 255, np.uint8)},
    "short read": {"read": np.full(63, 255, np.uint8)},
    "a rank that is none": {"seen": np.full(sketch.REGISTERS, 60, np.uint8)},
    "a small sketch": {"seen": GOOD.seen[:-1]},
    "a debt": {"base": np.array([-1, 0, 0], np.int64)},
    "another type": {"counts": GOOD.counts},
    "no recipe": {"recipe": np.zeros(31, np.uint8)},
    "no metadata": {"counts": GOOD.counts.astype(np.int32)},
    "another tensor": {"more": np.zeros(1, np.uint8)},
}


@pytest.mark.parametrize("which", BAD)
def test_malformed_lattices_are_refused(which: str) -> None:
    with pytest.raises(DataError):
        lattice.published(raw_of(GOOD, **BAD[which]), SIZE)


def test_rows_that_a_contribution_does_not_own_are_named() -> None:
    with pytest.raises(DataError, match="does not own"):
        lattice.check(Lattice(GOOD.keys, GOOD.counts, np.where(np.arange(64) == 4, 1, 0), GOOD.seen), SIZE)


def test_damaged_bytes_are_refused_and_end_nothing() -> None:
    raw, rng = raw_of(GOOD), random.Random(11)
    for _ in range(300):
        broken = bytearray(raw)
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del broken[rng.randrange(len(broken)) :]
        try:
            found = lattice.published(bytes(broken), SIZE)
        except DataError:
            continue
        assert found.encode(SIZE) == bytes(broken)  # what is taken is another lattice in its own one form
    for odd in (
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
    ):
        with pytest.raises(DataError):
            lattice.published(odd, SIZE)


@pytest.mark.parametrize(
    "change",
    [{"slice": 63}, {"slice": True}, {"slices": 0}, {"rows": 0}, {"rows": 256}, {"bases": "ab"}, {"bases": "a" * 128},
     {"bases": ("b" * 64 + ",") * 3}, {"backoff": "x"}, {"weights": 1}, {"smoothing": 15}, {"escape": 257}, {"more": 1},
     {"exclusion": 1_025}, {"slice": "1"}],
)  # fmt: skip
def test_recipes_outside_of_their_bounds_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(lattice_recipe.RecipeError):
        lattice_recipe.validate({**lattice_recipe.BASELINE, **change})
    recipe = dict(lattice_recipe.BASELINE)
    del recipe["rows"]
    with pytest.raises(lattice_recipe.RecipeError, match="rows is missing"):
        lattice_recipe.validate(recipe)
