"""Integer merging: the same bytes in any order, equal to slow Python integers, and robust."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from spore_borg.learn import merging
from spore_borg.learn.errors import LearnError
from spore_borg.learn.merging import MEAN, TRIMMED, Part


def _files(tmp_path: Path, count: int, seed: int, scale: float = 0.05) -> list[Path]:
    g = torch.Generator().manual_seed(seed)
    paths = []
    for i in range(count):
        path = tmp_path / f"part{seed}-{i}.safetensors"
        save_file({"a": torch.randn(300, 7, generator=g) * scale, "b": torch.randn(5, generator=g)}, path)
        paths.append(path)
    return paths


def _rint(x: float) -> int:
    return round(Fraction(x) * (1 << 24))  # to nearest even, as IEEE does


def _slow_trimmed(values: list[int], weights: list[int]) -> int:
    total = sum(weights)
    low = total * 3 // 10
    high, passed, kept = total - low, 0, 0
    for value, weight in sorted(zip(values, weights, strict=True)):
        kept += value * max(0, min(passed + weight, high) - max(passed, low))
        passed += weight
    return kept // (high - low)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32), st.integers(1, 9), st.sampled_from([1e-6, 0.05, 0.2, 3.0, 100.0]), st.booleans()
)
def test_blocks_are_those_of_python_integers(seed: int, count: int, scale: float, equal: bool) -> None:
    rng = np.random.default_rng(seed)
    parts = [torch.from_numpy(rng.uniform(-scale, scale, 23).astype(np.float32)) for _ in range(count)]
    parts[0][3:9] = parts[-1][3:9]  # ties
    weights = (
        [3] * count
        if equal
        else [int(w) for w in rng.integers(1, int(rng.choice([9, 2_000, 29_000])), count)]
    )
    q = [[_rint(float(x)) for x in part] for part in parts]
    assert [merging.fixed(part).tolist() for part in parts] == q
    mean = merging.mean_block(parts.__getitem__, weights)
    assert [int(x) for x in mean] == [
        sum(w * row[i] for w, row in zip(weights, q, strict=True)) // sum(weights) for i in range(23)
    ]
    trimmed = merging.trimmed_block([merging.fixed(part) for part in parts], weights)
    assert [int(x) for x in trimmed] == [_slow_trimmed([row[i] for row in q], weights) for i in range(23)]


@pytest.mark.parametrize("count", range(1, 20))
def test_the_network_sorts(count: int) -> None:
    pairs = list(merging.comparators(count))
    # The 0-1 principle: a network that sorts all zeros and ones sorts everything.
    for word in range(1 << count) if count <= 10 else random.Random(count).sample(range(1 << count), 2_000):
        bits = [word >> i & 1 for i in range(count)]
        for i, j in pairs:
            if bits[i] > bits[j]:
                bits[i], bits[j] = bits[j], bits[i]
        assert bits == sorted(bits)


def test_only_the_wanted_ranks_are_sorted() -> None:
    g = torch.Generator().manual_seed(11)
    for count in range(1, 17):
        rows = torch.randint(-50, 50, (count, 200), generator=g, dtype=torch.int32)
        for first in range(count):
            wanted = range(first, min(first + 3, count))
            found = list(rows.clone())
            merging._sort(found, wanted)
            for rank in wanted:
                assert torch.equal(found[rank], rows.sort(dim=0).values[rank]), (count, rank)


@pytest.mark.parametrize("scales", [(0.05, 0.05), (0.05, 3.0), (3.0, 0.05), (90.0, 90.0)])
@pytest.mark.parametrize("weights", [(5, 9, 3, 7), (8_192, 1, 4_000, 8_191), (4, 4, 4, 4), (30_000, 9, 1, 9)])
def test_the_trimmed_rule_is_that_of_python_integers(
    tmp_path: Path, scales: tuple[float, float], weights: tuple[int, ...]
) -> None:
    """From files and a base, with near and far weights: each way of computing gives the same numbers."""
    rng = np.random.default_rng(29)
    base, far = (rng.uniform(-scale, scale, 40).astype(np.float32) for scale in scales)
    rows = [
        base + (far if i == 1 else 0) + rng.normal(0, 0.01 * (i + 1), 40).astype(np.float32) for i in range(4)
    ]
    for name, row in zip(("base", *"0123"), (base, *rows), strict=True):
        save_file({"w": torch.from_numpy(row.clip(-127, 127))}, tmp_path / name)
    parts = [Part(tmp_path / name, weight) for name, weight in zip("0123", weights, strict=True)]
    found = merging.merge(parts, tmp_path / "out", base=tmp_path / "base", rule=TRIMMED)
    q = [[_rint(x) for x in load_file(tmp_path / name)["w"].tolist()] for name in ("base", *"0123")]
    deltas = [[x - zero for x, zero in zip(row, q[0], strict=True)] for row in q[1:]]
    scale = merging.ratios([sum((d >> 8) ** 2 for d in row) for row in deltas])
    assert found.ratios == scale
    deltas = [[d * ratio >> 20 for d in row] for row, ratio in zip(deltas, scale, strict=True)]
    kept = [zero + _slow_trimmed([row[i] for row in deltas], list(weights)) for i, zero in enumerate(q[0])]
    expected = torch.tensor(kept, dtype=torch.float64).to(torch.float32) * 2.0**-24
    assert torch.equal(load_file(tmp_path / "out")["w"], expected)


@pytest.mark.parametrize("rule", [MEAN, TRIMMED])
def test_any_order_gives_the_same_bytes(tmp_path: Path, rule: str) -> None:
    paths = _files(tmp_path, 4, 1)
    parts = [Part(path, weight) for path, weight in zip(paths, (5, 9, 3, 7), strict=True)]
    base = _files(tmp_path, 1, 2)[0]
    found = set()
    for order in permutations(parts):
        merging.merge(order, tmp_path / "out.safetensors", base=base, rule=rule)
        found.add((tmp_path / "out.safetensors").read_bytes())
    assert len(found) == 1


def test_the_merged_file_is_the_mean(tmp_path: Path) -> None:
    paths = _files(tmp_path, 3, 3)
    merging.merge([Part(path, 1) for path in paths], tmp_path / "out.safetensors", rule=MEAN)
    loaded = load_file(tmp_path / "out.safetensors")
    expected = {k: torch.stack([load_file(p)[k] for p in paths]).sum(0) / 3 for k in ("a", "b")}
    for name, tensor in expected.items():
        assert loaded[name].shape == tensor.shape
        assert float((loaded[name] - tensor).abs().max()) < 2e-7


def test_blocks_do_not_show_in_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [Part(path, i + 1) for i, path in enumerate(_files(tmp_path, 3, 4))]
    whole = merging.merge(parts, tmp_path / "whole.safetensors")
    monkeypatch.setitem(merging.BLOCK, TRIMMED, 64)
    pieces = merging.merge(parts, tmp_path / "pieces.safetensors")
    assert whole == pieces
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "pieces.safetensors").read_bytes()


def test_a_loud_or_turned_minority_moves_little(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(5)
    truth = torch.randn(2_000, generator=g) * 0.02
    paths = []
    for i in range(10):
        delta = truth + torch.randn(2_000, generator=g) * 0.01
        if i >= 7:
            delta = -20 * truth
        paths.append(tmp_path / f"{i}.safetensors")
        save_file({"w": delta}, paths[-1])
    found = {}
    for rule in (MEAN, TRIMMED):
        merging.merge([Part(path, 1) for path in paths], tmp_path / "out.safetensors", rule=rule)
        found[rule] = float(
            torch.cosine_similarity(load_file(tmp_path / "out.safetensors")["w"], truth, dim=0)
        )
    print(found)
    assert found[MEAN] < 0
    assert found[TRIMMED] > 0.9


def test_norms_are_clipped_to_the_median() -> None:
    assert merging.ratios([4, 4, 16]) == (1 << 20, 1 << 20, 1 << 19)
    assert merging.ratios([0, 0, 0]) == (1 << 20,) * 3
    assert merging.ratios([0, 0, 9])[2] == 0


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    good = _files(tmp_path, 2, 6)
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(300, 7), "c": torch.zeros(5)}, other)
    nan = tmp_path / "nan.safetensors"
    save_file({"a": torch.full((300, 7), float("nan")), "b": torch.zeros(5)}, nan)
    ints = tmp_path / "ints.safetensors"
    save_file({"a": torch.zeros(300, 7, dtype=torch.int32), "b": torch.zeros(5)}, ints)
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"\xff" * 100)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good[0].read_bytes()[:-40])
    out = tmp_path / "out.safetensors"
    for bad in (other, nan, ints, junk, cut):
        for rule in (MEAN, TRIMMED):
            with pytest.raises(LearnError):
                merging.merge([Part(good[0], 1), Part(bad, 1)], out, rule=rule)
    for weights in ((0, 1), (1, 1 << 18)):
        with pytest.raises(LearnError):
            merging.merge([Part(p, w) for p, w in zip(good, weights, strict=True)], out)
    with pytest.raises(LearnError, match="no merge rule"):
        merging.merge([Part(good[0], 1)], out, rule="slerp/1")
    assert not list(tmp_path.glob("out*"))


def test_half_precision_is_read_exactly(tmp_path: Path) -> None:
    x = torch.randn(100, generator=torch.Generator().manual_seed(7)).to(torch.bfloat16)
    save_file({"x": x}, tmp_path / "h.safetensors")
    merging.merge([Part(tmp_path / "h.safetensors", 3)], tmp_path / "out.safetensors")
    assert torch.equal(load_file(tmp_path / "out.safetensors")["x"], x.to(torch.float32))
