"""The state of a mesh as a set: two grow-only sets of record ids, and what is known of each member.

The view decides who is added and removed; this is what nodes join and show. A removed id stays removed: adding it
again is a new record with a new id, so no remove can be lost and no add can come back by itself.
Source: Shapiro et al. 2011, "2P-Set"; docs/internals/absorption.md, "Gate and state".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spore_borg.learn.crdt import GrowSet
from spore_borg.learn.errors import LearnError

TRUST_ONE = 1 << 20


@dataclass(frozen=True, slots=True, order=True)
class Provenance:
    """Where a member is from.

    Attributes:
        author: of the record (a node's name); origin, licence: of the source; head, modality: of the model.
        trust: of the author when it was added, in 2^-20.
    """

    author: str
    origin: str
    licence: str
    head: str
    modality: str
    trust: int = 0


class State:
    """Shards by the id of their record, with provenance."""

    def __init__(self, added: Mapping[str, Provenance], removed: Iterable[str] = ()) -> None:
        if any(not 0 <= provenance.trust < 1 << 62 for provenance in added.values()):
            raise LearnError("Trust is a whole number from 0, in units of 2^-20.")
        self._added = GrowSet(added)
        self._removed = GrowSet(removed)
        self._about = dict(added)

    def join(self, other: State) -> State:
        """Both together: commutative, associative, idempotent.

        Where two sides tell different things of one id (trust grows), the greater in order stands.
        """
        about = dict(self._about)
        for one, provenance in other._about.items():
            about[one] = max(about.get(one, provenance), provenance)
        joined = State({})
        joined._added = self._added.join(other._added)
        joined._removed = self._removed.join(other._removed)
        joined._about = about
        return joined

    def members(self, modality: str | None = None) -> tuple[str, ...]:
        """Ids that were added and not removed, of one modality or all, ascending."""
        alive = self._added.ids() - self._removed.ids()
        return tuple(sorted(one for one in alive if modality in (None, self._about[one].modality)))

    def about(self, one: str) -> Provenance:
        """What is known of an id that was added. Raises KeyError for another one."""
        return self._about[one]

    def weights(self, modality: str | None = None) -> dict[str, int]:
        """The trust of each member in 2^-20, at least 1: how much it counts among its peers."""
        return {one: max(self._about[one].trust, 1) for one in self.members(modality)}

    def digest(self) -> bytes:
        """sha256 over the added and the removed ids, each with its length: 32 bytes."""
        total = hashlib.sha256(b"spore-borg/state\0")
        for kind, ids in ((b"+", self._added.ids()), (b"-", self._removed.ids())):
            for one in sorted(ids):
                raw = one.encode()
                total.update(kind + len(raw).to_bytes(4, "big") + raw)
        return total.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self.digest() == other.digest() and self._about == other._about

    def __hash__(self) -> int:
        return hash(self.digest())
