"""Recurrent layers beyond the reference implementation: lengths per item, both directions, clipping, layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.learn.op_oracle import generator, ours


def by_hand(op: str, x: np.ndarray, weights: list[np.ndarray], **attrs: Any) -> list[np.ndarray]:
    return ours(op, [x, *weights], {"hidden_size": 4, **attrs}, 3 if op == "LSTM" else 2)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_items_of_different_length_equal_each_alone(op: str, gates: int, seed: int) -> None:
    rng = generator(seed)
    x = rng.normal(size=(5, 3, 2)).astype(np.float32)
    weights = [
        rng.normal(size=s).astype(np.float32)
        for s in ((2, gates * 4, 2), (2, gates * 4, 4), (2, 2 * gates * 4))
    ]
    lengths = [5, 2, 3]
    every, *last = by_hand(op, x, [*weights, np.array(lengths)], direction="bidirectional")
    for item, length in enumerate(lengths):
        alone, *ends = by_hand(op, x[:length, item : item + 1], weights, direction="bidirectional")
        np.testing.assert_allclose(every[:length, :, item : item + 1], alone, atol=1e-5)
        assert not every[length:, :, item].any()
        for mine, end in zip(last, ends, strict=True):
            np.testing.assert_allclose(mine[:, item : item + 1], end, atol=1e-5)


@pytest.mark.parametrize("attrs", [{"linear_before_reset": 0}, {"linear_before_reset": 1}])
def test_gru_step_by_step_equals_its_definition(attrs: dict[str, int], seed: int) -> None:
    rng = generator(seed)
    x = rng.normal(size=(6, 2, 3)).astype(np.float32)
    w, r, b = (rng.normal(size=s).astype(np.float32) for s in ((1, 12, 3), (1, 12, 4), (1, 24)))
    hidden = np.zeros((2, 4))

    def sigmoid(value: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-value))

    (wz, wr, wh), (rz, rr, rh), (bz, br, bh, cz, cr, ch) = (
        np.split(w[0], 3),
        np.split(r[0], 3),
        np.split(b[0], 6),
    )
    for step in x:
        zt = sigmoid(step @ wz.T + hidden @ rz.T + bz + cz)
        rt = sigmoid(step @ wr.T + hidden @ rr.T + br + cr)
        back = rt * (hidden @ rh.T + ch) if attrs["linear_before_reset"] else (rt * hidden) @ rh.T + ch
        hidden = (1 - zt) * np.tanh(step @ wh.T + back + bh) + zt * hidden
    np.testing.assert_allclose(by_hand("GRU", x, [w, r, b], **attrs)[1][0], hidden, atol=1e-5)


def test_lstm_activations_clip_and_coupled_gates(seed: int) -> None:
    rng = generator(seed)
    x = rng.normal(size=(6, 2, 3)).astype(np.float32)
    w, r, b = (rng.normal(size=s).astype(np.float32) for s in ((1, 16, 3), (1, 16, 4), (1, 32)))
    usual = by_hand("LSTM", x, [w, r, b])
    wide = by_hand("LSTM", x, [w, r, b], clip=1e6, activations=["Sigmoid", "Tanh", "Tanh"])
    for mine, want in zip(wide, usual, strict=True):
        np.testing.assert_allclose(mine, want, atol=1e-5)
    hidden, cell = np.zeros((2, 4)), np.zeros((2, 4))
    for step in x:
        i_, o_, _, c_ = np.split(
            np.clip(step @ w[0].T + hidden @ r[0].T + b[0, :16] + b[0, 16:], -0.7, 0.7), 4, 1
        )
        gate = 1 / (1 + np.exp(-i_))
        cell = (1 - gate) * cell + gate * np.maximum(c_, 0)
        hidden = np.maximum(cell, 0) / (1 + np.exp(-o_))
    settings = {"clip": 0.7, "input_forget": 1, "activations": ["Sigmoid", "Relu", "Relu"]}
    np.testing.assert_allclose(by_hand("LSTM", x, [w, r, b], **settings)[1][0], hidden, atol=1e-5)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_layout_1_puts_the_batch_first(op: str, gates: int, seed: int) -> None:
    rng = generator(seed)
    x = rng.normal(size=(5, 3, 2)).astype(np.float32)
    weights = [
        rng.normal(size=s).astype(np.float32)
        for s in ((2, gates * 4, 2), (2, gates * 4, 4), (2, 2 * gates * 4))
    ]
    every, *last = by_hand(op, x, weights, direction="bidirectional")
    other, *ends = by_hand(op, x.transpose(1, 0, 2), weights, direction="bidirectional", layout=1)
    np.testing.assert_allclose(other, every.transpose(2, 0, 1, 3), atol=1e-6)
    for mine, want in zip(ends, last, strict=True):
        np.testing.assert_allclose(mine, want.transpose(1, 0, 2), atol=1e-6)
