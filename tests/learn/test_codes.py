"""The neurons, step by step, against the quantisers they must equal bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spore_borg.learn.errors import ShardError
from spore_borg.learn.spike.codes import FEW_SPIKE, RATE, Code, popcount

torch.set_num_threads(1)  # two threads on small tensors wait for each other


def case(seed: int, channels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations with ties, zeros and values beyond the range; thresholds per channel; int8 weights."""
    print("seed", seed)
    g = torch.Generator().manual_seed(seed)
    s = torch.rand(channels, generator=g) * 0.3 + 0.01
    x = torch.randn(9, channels, generator=g) * 2
    x[0] = s * 2.5
    x[1] = -s * 0.5
    x[2] = 0
    x[3] = 1e6
    x[4] = -1e30
    w = torch.randint(-127, 128, (channels, 7), generator=g)
    return x, s, w


@settings(max_examples=60, deadline=None)
@given(st.sampled_from((FEW_SPIKE, RATE)), st.integers(1, 12), st.integers(0, 2**31), st.integers(1, 40))
def test_spikes_accumulate_to_the_integer_product(rule: str, steps: int, seed: int, channels: int) -> None:
    x, s, w = case(seed, channels)
    code = Code(rule, steps)
    k = code.quantise(x, s)
    accumulated = torch.zeros(9, 7, dtype=torch.int64)
    spikes = torch.zeros_like(x)
    trains = list(code.train(x, s))
    assert len(trains) == steps
    for weight, events in trains:
        assert bool(((events == 0) | (events.abs() == 1)).all())
        accumulated += weight * (events.to(torch.int64) @ w)
        spikes += events.abs()
    assert torch.equal(accumulated, k.to(torch.int64) @ w)
    assert torch.equal(spikes, code.spikes(k))
    clipped = torch.sign(x) * torch.clamp(torch.floor(x.abs() / s + 0.5), max=code.levels)
    assert torch.equal(k, clipped)
    assert int(k.abs().max()) <= code.levels


@settings(max_examples=40, deadline=None)
@given(st.sampled_from((FEW_SPIKE, RATE)), st.integers(1, 8), st.integers(0, 2**31))
def test_two_bases_are_two_codes(rule: str, steps: int, seed: int) -> None:
    x, s, _ = case(seed, 5)
    code = Code(rule, steps)
    k = code.fine(x, s)
    base = code.levels + 1
    coarse = torch.trunc(k / base)
    fine = k - coarse * base
    assert int(coarse.abs().max()) <= code.levels and int(fine.abs().max()) <= code.levels
    assert torch.equal(code.fine_spikes(k), code.spikes(coarse) + code.spikes(fine))


def test_the_error_is_at_most_half_a_threshold_inside_the_range() -> None:
    x, s = torch.linspace(-3, 3, 1001), torch.tensor(0.1)
    for rule, steps in ((FEW_SPIKE, 5), (RATE, 31)):
        assert float((Code(rule, steps).value(x, s) - x).abs().max()) <= 0.05 + 1e-6


def test_nothing_comes_of_nan() -> None:
    x = torch.tensor([float("nan"), float("inf"), float("-inf")])
    for rule in (FEW_SPIKE, RATE):
        code = Code(rule, 3)
        k = code.quantise(x, torch.tensor(1.0))
        assert k.tolist() == [0, code.levels, -code.levels]
        assert torch.equal(sum(w * e for w, e in code.train(x, torch.tensor(1.0))), k)


def test_popcount() -> None:
    values = torch.tensor([0, 1, 2, 255, 256, 65535, 65536, 2**20 - 1])
    assert popcount(values).tolist() == [bin(v).count("1") for v in values.tolist()]


@pytest.mark.parametrize(
    ("rule", "steps"), [("few-spike/1", 0), ("few-spike/1", 17), ("rate/1", 65), ("other", 4)]
)
def test_unknown_codes_are_refused(rule: str, steps: int) -> None:
    with pytest.raises(ShardError):
        Code(rule, steps)
