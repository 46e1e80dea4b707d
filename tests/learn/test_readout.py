"""The readout: exact joins in any order, the same ridge by two ways, and a useless member changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spore_borg.learn import readout
from spore_borg.learn.errors import LearnError


def _fixed(rng: np.random.Generator, rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
    return readout.quantise(torch.from_numpy(rng.normal(0, scale, (rows, columns))))


@given(st.integers(0, 2**32), st.integers(2, 6), st.sampled_from([1.0, 1e-3, 300.0]))
def test_a_join_is_exact_and_order_free(seed: int, parts: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = _fixed(rng, 60, 7, scale), rng.integers(0, 3, 60)
    whole = readout.Statistics.of(x, y, 3)
    where = rng.integers(0, parts, 60)
    pieces = [readout.Statistics.of(x[where == p], y[where == p], 3) for p in rng.permutation(parts)]
    joined = pieces[0]
    for piece in pieces[1:]:
        joined = piece.join(joined)
    assert joined.count == whole.count
    assert (joined.gram == whole.gram).all()
    assert (joined.cross == whole.cross).all()
    assert (joined.solve().weights == whole.solve().weights).all()


def test_sums_are_those_of_python_integers() -> None:
    x = np.full((3, 2), readout.CLIP, np.int32)
    stats = readout.Statistics.of(x, np.zeros(3, np.int64), 2)
    assert stats.gram[0, 1].item() == 3 * readout.CLIP * readout.CLIP
    assert stats.gram[-1, -1].item() == 3


def test_the_dual_is_the_primal() -> None:
    rng = np.random.default_rng(1)
    x, other, y = _fixed(rng, 80, 20), _fixed(rng, 30, 20), rng.integers(0, 4, 80)
    primal = readout.Statistics.of(x, y, 4).solve(0.1).predict(other)
    mean, scale = readout.standard(x)
    fit, rest = (x - mean) * scale, (other - mean) * scale
    target = np.eye(4)[y] - np.eye(4)[y].mean(axis=0)
    dual = rest @ fit.T @ np.linalg.solve(fit @ fit.T + 0.1 * 80 * np.eye(80), target)
    assert np.allclose(primal, dual + np.eye(4)[y].mean(axis=0), atol=1e-9)


def test_leave_one_out_is_that_of_leaving_out() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 2))
    x, y = x - x.mean(0), y - y.mean(0)
    old = readout.RIDGES
    try:
        readout.RIDGES = (0.1,)
        shortcut = readout.expert(x, y).left_out
    finally:
        readout.RIDGES = old
    for i in range(40):
        keep = np.arange(40) != i
        centre, level = x[keep].mean(0), y[keep].mean(0)
        a = x[keep] - centre
        # The penalty 0.1 · 40 stays as it is; the mean is refitted, as the leverage 1/n says.
        w = np.linalg.solve(a.T @ a + 0.1 * 40 * np.eye(5), a.T @ (y[keep] - level))
        assert np.allclose(shortcut[i], (x[i] - centre) @ w + level, atol=1e-8)


def _task(seed: int, fit: int = 300, test: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, fit + test)
    good = rng.normal(size=(4, 12))[y] + rng.normal(size=(fit + test, 12)) * 1.5
    noise = rng.normal(size=(fit + test, 256))
    return y, readout.quantise(torch.from_numpy(good)), readout.quantise(torch.from_numpy(noise))


def _loss(members: list[np.ndarray], y: np.ndarray) -> int:
    said = readout.stack([m[:300] for m in members], y[:300], 4).predict([m[300:] for m in members])
    return int(readout.brier_nano(said, y[300:]).sum())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_a_useless_member_hardly_changes_the_prediction_and_a_copy_neither(seed: int) -> None:
    y, good, noise = _task(seed)
    prior = np.repeat((np.bincount(y[:300], minlength=4) / 300)[None, :], 200, 0)
    nothing = int(readout.brier_nano(prior, y[300:]).sum())
    one, two, copy = _loss([good], y), _loss([good, noise], y), _loss([good, good], y)
    print(seed, one, two, copy, nothing)
    assert one < 0.8 * nothing
    assert abs(two - one) < 0.02 * one
    assert abs(copy - one) < 1e-6 * one
    assert _loss([noise, good], y) == pytest.approx(two, rel=1e-6)


def test_a_last_bit_of_a_feature_moves_the_loss_by_little() -> None:
    y, good, noise = _task(7)
    jitter = np.random.default_rng(0)
    before = _loss([good, noise], y)
    after = _loss([m + jitter.integers(-1, 2, m.shape).astype(np.int32) for m in (good, noise)], y)
    assert abs(after - before) < 1e-4 * before


def test_what_is_not_a_number_or_does_not_fit() -> None:
    fixed = readout.quantise(torch.tensor([[float("nan"), float("inf"), 1e9, -1.0]]))
    assert fixed.tolist() == [[0, 0, readout.CLIP, -4096]]
    with pytest.raises(LearnError):
        readout.quantise(torch.zeros(2, 600))
    with pytest.raises(LearnError):
        readout.one_hot(np.array([3]), 3)
    with pytest.raises(LearnError):
        readout.Statistics.of(fixed, np.zeros(2, np.int64), 2)
    one = readout.Statistics.of(fixed, np.zeros(1, np.int64), 2)
    with pytest.raises(LearnError):
        one.join(readout.Statistics.of(fixed[:, :2], np.zeros(1, np.int64), 2))
