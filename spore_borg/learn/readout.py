"""A readout across models in closed form: ridge regression on fixed-point features, stacked over the members.

Features are rounded to 2^-12 and clipped, so their sums are exact integers: the statistics of two nodes join by
addition, in any order, to the same bytes. The ridge is solved in float64. For the probe gate, each member of the state
has a ridge of its own and all together have one; how much each counts comes from non-negative least squares on their
leave-one-out predictions. A member that says nothing new gets next to no weight, and everything is a continuous
function of the features: no choice flips because of the last bit.
Sources: Hoerl and Kennard 1970 (ridge); Allen 1974 (PRESS); Breiman 1996, "Stacked regressions".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from spore_borg.learn.errors import LearnError

FRACTION_BITS = 12
CLIP = 1 << 19  # of a fixed-point feature: ±128
FEATURES_MAX = 512  # of one member
COUNT_MAX = 1 << 24  # rows of one statistic: 2^19 · 2^19 · 2^24 < 2^63
ROWS_EXACT = 1 << 14  # rows whose sum of products stays below 2^53, so that float64 adds them exactly
RIDGES = (
    1e-3,
    1e-2,
    1e-1,
    1.0,
)  # penalties, relative to features of unit variance shared out over their number
SOFTNESS = 0.02  # how sharply the better penalties are preferred; of the least error
NANO = 1_000_000_000

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def quantise(features: torch.Tensor) -> NDArray[np.int32]:
    """float [n, f] → int32 [n, f] in units of 2^-12, clipped to ±128; what is not a number becomes 0.

    Raises:
        LearnError: not two axes, or more than 512 features.
    """
    if features.ndim != 2 or features.shape[1] > FEATURES_MAX:
        raise LearnError(
            f"Features have the shape {tuple(features.shape)}; wanted are [n, up to {FEATURES_MAX}]."
        )
    wide = torch.nan_to_num(features.detach().to("cpu", torch.float64), nan=0.0, posinf=0.0, neginf=0.0)
    fixed: NDArray[np.int32] = (
        (wide * (1 << FRACTION_BITS)).round().clamp(-CLIP, CLIP).to(torch.int32).numpy()
    )
    return fixed


def _product(left: Ints, right: Ints) -> Ints:
    """leftᵀ · right, exactly, at the speed of float64."""
    total = np.zeros((left.shape[1], right.shape[1]), np.int64)
    for start in range(0, len(left), ROWS_EXACT):
        rows = slice(start, start + ROWS_EXACT)
        total += (left[rows].astype(np.float64).T @ right[rows].astype(np.float64)).astype(np.int64)
    return total


@dataclass(frozen=True, slots=True)
class Statistics:
    """All that a ridge needs of its data: count, XᵀX and XᵀY with a column of ones behind X.

    Attributes:
        gram: int64 [f+1, f+1] in units of 2^-24 (the last row and column: 2^-12, and the count).
        cross: int64 [f+1, c] in units of 2^-12 (the last row: items per class).
    """

    count: int
    gram: Ints
    cross: Ints

    @classmethod
    def of(cls, features: NDArray[np.int32], labels: Ints, classes: int) -> Statistics:
        """The statistics of some items. Raises LearnError for features out of range."""
        if len(features) != len(labels) or len(features) > COUNT_MAX:
            raise LearnError(f"{len(features)} features do not belong to {len(labels)} labels.")
        if features.size and int(np.abs(features.astype(np.int64)).max()) > CLIP:
            raise LearnError("Features are out of the range of the fixed point.")
        ones = np.ones((len(features), 1), np.int64)
        rows = np.concatenate([features.astype(np.int64), ones], axis=1)
        return cls(len(features), _product(rows, rows), _product(rows, one_hot(labels, classes)))

    def join(self, other: Statistics) -> Statistics:
        """The statistics of both sets of items: exact, in any order. Raises LearnError if they do not fit."""
        if self.gram.shape != other.gram.shape or self.cross.shape != other.cross.shape:
            raise LearnError("Statistics of different features or classes cannot be joined.")
        if self.count + other.count > COUNT_MAX:
            raise LearnError(f"Statistics hold at most {COUNT_MAX} items.")
        return Statistics(self.count + other.count, self.gram + other.gram, self.cross + other.cross)

    def solve(self, ridge: float = RIDGES[1]) -> Readout:
        """The ridge regression of the classes on the features. Raises LearnError without items."""
        if self.count < 1:
            raise LearnError("A readout needs at least one item.")
        size = len(self.gram) - 1
        sums = self.gram[-1, :-1].astype(np.float64)
        mean = sums / self.count
        prior = self.cross[-1].astype(np.float64) / self.count
        cov = self.gram[:-1, :-1].astype(np.float64) / self.count - np.outer(mean, mean)
        scale = _scale(np.diag(cov), size)
        cov = cov * scale[:, None] * scale[None, :]
        target = (self.cross[:-1] / self.count - np.outer(mean, prior)) * scale[:, None]
        weights = np.linalg.solve(cov + ridge * np.eye(size), target) * scale[:, None]
        return Readout(weights, prior - mean @ weights)


@dataclass(frozen=True, slots=True)
class Readout:
    """A linear map from fixed-point features to classes: weights float64 [f, c], bias float64 [c]."""

    weights: Floats
    bias: Floats

    def predict(self, features: NDArray[np.int32]) -> Floats:
        """float64 [n, c]."""
        made: Floats = features.astype(np.float64) @ self.weights + self.bias
        return made


def one_hot(labels: Ints, classes: int) -> Ints:
    """int64 [n, c]. Raises LearnError for a class that is not there."""
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise LearnError("A label names a class that is not there.")
    return np.eye(classes, dtype=np.int64)[labels]


def _scale(variance: Floats, size: int) -> Floats:
    """To unit variance, shared out over the features; one unit of rounding keeps a constant from being blown up."""
    made: Floats = 1.0 / np.sqrt((np.maximum(variance, 0.0) + 1.0) * max(size, 1))
    return made


def standard(fit: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """Mean and scale of each feature over the fit items, from exact sums: float64 [f] each."""
    wide = fit.astype(np.int64)
    count = max(len(wide), 1)
    sums = wide.sum(axis=0)
    # In whole numbers until the last step: count · Σx² − (Σx)² has no cancellation.
    variance = (count * (wide * wide).sum(axis=0) - sums * sums) / (count * count)
    return sums / count, _scale(variance, wide.shape[1])


@dataclass(frozen=True, slots=True)
class Expert:
    """One ridge regression, centred by the prior: what it says of a fit item left out [n, c], and weights [d, c]."""

    left_out: Floats
    weights: Floats


def expert(fit: Floats, target: Floats) -> Expert:
    """Ridge regressions along ``RIDGES``, averaged by how well each does on items left out.

    Args:
        fit: [n, d] standardised; target: [n, c] centred.
    """
    count = len(fit)
    values, vectors = np.linalg.eigh(fit @ fit.T)
    values = np.maximum(values, 0.0)
    inside = vectors.T @ target
    left, dual, errors = [], [], []
    for ridge in RIDGES:
        shrunk = values / (values + ridge * count)
        leverage = (vectors * vectors) @ shrunk + 1.0 / count
        residual = target - vectors @ (shrunk[:, None] * inside)
        residual = residual / np.maximum(1.0 - leverage, 1e-3)[:, None]
        left.append(target - residual)
        dual.append(inside / (values + ridge * count)[:, None])
        errors.append(float((residual * residual).sum()))
    least = max(min(errors), 1e-12)
    share = np.exp(-(np.array(errors) - least) / (SOFTNESS * least))
    share /= share.sum()
    left_out: Floats = np.tensordot(share, np.stack(left), 1)
    weights: Floats = fit.T @ (vectors @ np.tensordot(share, np.stack(dual), 1))
    return Expert(left_out, weights)


@dataclass(frozen=True, slots=True)
class Stacked:
    """A fitted readout over several members.

    Attributes:
        prior: float64 [c], each class's share of the fit items.
        means, scales: of each member's features; weights: of each member float64 [f, c].
        shares: how much each expert counts: one per member, then one for all together (with two or more).
    """

    prior: Floats
    means: tuple[Floats, ...]
    scales: tuple[Floats, ...]
    weights: tuple[Floats, ...]
    shares: tuple[float, ...]

    def predict(self, members: Sequence[NDArray[np.int32]]) -> Floats:
        """float64 [m, c] between 0 and 1.

        Args:
            members: of each, the fixed-point features int32 [m, f] of the items, in the order of the fit.
        """
        said = np.repeat(self.prior[None, :], len(members[0]), axis=0)
        for features, mean, scale, weights in zip(
            members, self.means, self.scales, self.weights, strict=True
        ):
            said += ((features - mean) * scale) @ weights
        clipped: Floats = np.clip(said, 0.0, 1.0)
        return clipped


def stack(members: Sequence[NDArray[np.int32]], labels: Ints, classes: int) -> Stacked:
    """Fit the members' readout.

    Args:
        members: of each, the fixed-point features int32 [n, f] of the fit items; at least one.
        labels: int64 [n].
    """
    hot = one_hot(labels, classes).astype(np.float64)
    prior: Floats = hot.mean(axis=0)
    target = hot - prior
    standards = [standard(member) for member in members]
    rows = [(member - mean) * scale for member, (mean, scale) in zip(members, standards, strict=True)]
    experts = [expert(row, target) for row in rows]
    if len(rows) > 1:
        experts.append(expert(np.concatenate(rows, axis=1) / np.sqrt(len(rows)), target))
    columns = np.stack([one.left_out.ravel() for one in experts], axis=1)
    shares, _ = nnls(columns, target.ravel())
    weights = [share * one.weights for share, one in zip(shares, experts, strict=False)]
    if len(rows) > 1:
        ends = np.cumsum([row.shape[1] for row in rows])[:-1]
        joint = np.split(shares[-1] * experts[-1].weights / np.sqrt(len(rows)), ends)
        weights = [alone + together for alone, together in zip(weights[:-1], joint, strict=True)]
    return Stacked(
        prior, tuple(mean for mean, _ in standards), tuple(scale for _, scale in standards),
        tuple(weights), tuple(float(share) for share in shares),
    )  # fmt: skip


def brier_nano(predictions: Floats, labels: Ints) -> Ints:
    """Squared error of each item in nano: int64 [m], from 0 to classes · 10^9."""
    hot = one_hot(labels, predictions.shape[1])
    errors = ((predictions - hot) ** 2).sum(axis=1)
    fixed: Ints = np.rint(errors * NANO).astype(np.int64)
    return fixed
