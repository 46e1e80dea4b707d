"""What a fold remembers of a round and of a node."""

from __future__ import annotations

from dataclasses import dataclass, field

from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record


@dataclass(frozen=True, slots=True)
class Round:
    """An epoch sealed by more than half of the rooted trust."""

    round: int
    epoch: int
    seals: int
    trust: int
    trust_total: int
    acknowledged: int
    digest: bytes


@dataclass(slots=True)
class Member:
    """What is known of a node: its joins, its onion, when it was last seen."""

    key: bytes
    join: Record | None = None
    joins: list[Record] = field(default_factory=list)
    onion_known: dict[Cid, tuple[int, bytes]] = field(default_factory=dict)
    round_seen: int = -1
    profile: Record | None = None

    def fingerprint(self) -> bytes:
        """The measured fingerprint of the acknowledged join."""
        return b"" if self.join is None else self.join.body.fingerprint
