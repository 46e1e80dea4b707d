"""Copies of a view's state, so that a fold can go on from one of its rounds instead of from the first.

A fold up to an epoch depends on the seals of that epoch and earlier ones, and on what those have in their past,
and on nothing else. So, if no new seal is that old, the state after that epoch stays and the fold goes on from it.
Source: spec/20-views.md.
"""

from __future__ import annotations

import copy
from typing import Any

from spore_borg.views.bank import Bank
from spore_borg.views.dag import Dag, Reach
from spore_borg.views.frontier import Frontier
from spore_borg.views.members import Member
from spore_borg.views.reputation import Account, Ledger
from spore_borg.views.verdicts import Claim, Evidence

State = dict[str, Any]


def copied(state: State) -> State:
    """A copy that shares only what nothing changes any more: records, entries, steps, settled claims.

    Args:
        state: attributes by name.
    """
    twin: State = _Copier((Claim, Evidence, Frontier, Ledger, Account, Member, Bank)).container(state)
    return twin


def extended(dag: Dag, fresh: Any, epoch: int) -> tuple[Dag, bool]:
    """A graph with further records, and whether none of them is a seal of this epoch or an earlier one."""
    twin = dag.copy()
    for record in fresh:
        twin.add(record)
    added = twin.records[len(dag.records) :]
    return twin, all(record.kind != "seal" or record.epoch > epoch for record in added)


class _Copier:
    def __init__(self, shells: tuple[type, ...]) -> None:
        self._shells = shells
        self._done: dict[int, Any] = {}

    def value(self, value: Any) -> Any:
        """A copy if it changes, else itself; two ways to one object stay two ways to one copy."""
        if isinstance(value, Reach):
            return value.copy()
        if isinstance(value, dict | list | set):
            return self.container(value)
        settled = isinstance(value, Claim) and value.verdict is not None
        if settled or not isinstance(value, self._shells):
            return value
        if id(value) not in self._done:
            twin: Any = copy.copy(value)
            self._done[id(value)] = twin
            for name in twin.__slots__:
                setattr(twin, name, self.value(getattr(value, name)))
        return self._done[id(value)]

    def container(self, value: Any) -> Any:
        """A copy of a dict, list or set, deep only where its values change."""
        twin = copy.copy(value)
        if isinstance(value, dict):
            if any(self._changes(item) for item in _few(value.values())):
                for key, item in value.items():
                    twin[key] = self.value(item)
        elif isinstance(value, list) and any(self._changes(item) for item in _few(value)):
            twin[:] = [self.value(item) for item in value]
        return twin

    def _changes(self, value: Any) -> bool:
        return isinstance(value, (*self._shells, Reach, dict, list, set))


def _few(values: Any) -> list[Any]:
    """The first value: values of one container are of one type."""
    return [item for _, item in zip(range(1), values, strict=False)]
