"""The one place that knows crdt-merge: what of it held under test, and nothing else.

Used: the add-only ``CRDTMergeState`` with content-addressed ids, ``VectorClock``, ``GCounter`` and the strategy
``weight_average``. Not used, because tests show that it fails: every ``remove``, ``MerkleTree``, the trust lattice,
``ties``, ``slerp`` and ``linear`` (tests/learn/test_crdt.py pins both). Its objects are not thread-safe: each adapter
holds a lock of its own. Licence: docs/adr/0003-crdt-merge-licence.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from crdt_merge.clocks import VectorClock
from crdt_merge.core import GCounter
from crdt_merge.model.crdt_state import CRDTMergeState
from crdt_merge.model.strategies import get_strategy
from numpy.typing import NDArray

from spore_borg.learn.errors import LearnError

ID_CHARS_MAX = 200
_MARK = np.zeros(1, np.float32)  # what stands behind every id: the id is the content


class GrowSet:
    """A set of content ids that only grows; joining is union, in any order, any number of times."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._state = CRDTMergeState("weight_average", seed=1)
        for one in ids:
            self.add(one)

    def add(self, one: str) -> None:
        """Add an id. Raises LearnError for an empty or overlong one."""
        if not 0 < len(one) <= ID_CHARS_MAX:
            raise LearnError(f"An id has 1 to {ID_CHARS_MAX} characters.")
        with self._lock:
            self._state.add(_MARK, model_id=one, weight=1.0)

    def join(self, other: GrowSet) -> GrowSet:
        """The union, as a new set; both stay as they are."""
        joined = GrowSet()
        with self._lock:
            mine = self._state.merge(CRDTMergeState("weight_average", seed=1))
        with other._lock:
            joined._state = mine.merge(other._state)
        return joined

    def ids(self) -> frozenset[str]:
        """What is in it."""
        with self._lock:
            return frozenset(self._state.model_ids)


class Clock:
    """How many events of each node were seen."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self._lock = threading.Lock()
        self._clock = VectorClock(dict(counts or {}))

    def tick(self, node: str) -> None:
        """One more event of a node."""
        with self._lock:
            self._clock = self._clock.increment(node)

    def join(self, other: Clock) -> Clock:
        """The larger count of each node."""
        joined = Clock()
        with other._lock:
            theirs = other._clock
        with self._lock:
            joined._clock = self._clock.merge(theirs)
        return joined

    def counts(self) -> dict[str, int]:
        """The counts by node."""
        with self._lock:
            return {str(node): int(count) for node, count in self._clock.value.items()}


class Counter:
    """A counter to which every node adds for itself: how often the shards of a state answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counter = GCounter()

    def add(self, node: str, amount: int = 1) -> None:
        """Add to a node's share. Raises LearnError for less than 1."""
        if amount < 1:
            raise LearnError("A counter only grows.")
        with self._lock:
            self._counter.increment(node, amount)

    def join(self, other: Counter) -> Counter:
        """The larger share of each node."""
        joined = Counter()
        with other._lock:
            theirs = GCounter.from_dict(other._counter.to_dict())
        with self._lock:
            joined._counter = self._counter.merge(theirs)
        return joined

    def value(self) -> int:
        """The sum."""
        with self._lock:
            return int(self._counter.value)


def weight_average(tensors: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float64]:
    """The library's weighted mean, for comparison: float64, all tensors in memory, not order-free to the bit."""
    if len(tensors) != len(weights) or not tensors:
        raise LearnError("As many weights as tensors are needed, and at least one.")
    merged: NDArray[np.float64] = np.asarray(
        get_strategy("weight_average").merge(list(tensors), weights=list(weights)), dtype=np.float64
    )
    return merged
