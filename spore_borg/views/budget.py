"""What an absorption may cost those who verify it: the mesh's limits, and who has said that it takes on how much.

A claim declares its cost; whoever recomputes it counts the same. Up to the *free* size everybody verifies; between that
and the hard limit those who can and want to, as they say in their join; above it a record is no claim.
Source: spec/51-absorption-and-state.md §§2, 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spore_borg.records.bodies import Absorption, Join, Task

if TYPE_CHECKING:
    from spore_borg.views.reduce import View
    from spore_borg.views.verdicts import Claim

BYTES_FREE = 256_000_000  # source files and shard together: every trusted node takes this on
BYTES_MAX = 4_000_000_000  # … and nobody more than this
OPS_FREE = 1_000_000_000  # operations of the source for one item: twice those of a MiniLM with six layers
OPS_MAX = (
    16_000_000_000  # about what a verifier still measures within the hour that it gives to one operation
)


@dataclass(frozen=True, slots=True)
class Limits:
    """A mesh's limits: bytes of source and shard together, operations of the source for one item."""

    bytes_free: int
    bytes_max: int
    ops_free: int
    ops_max: int


def limits(spec: Mapping[str, int | bool | str]) -> Limits:
    """The limits in a task's settings; where it names none, those of this release."""

    def of(name: str, default: int) -> int:
        value = spec.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default

    return Limits(
        of("bytes_free", BYTES_FREE), of("bytes_max", BYTES_MAX), of("ops_free", OPS_FREE), of("ops_max", OPS_MAX)
    )  # fmt: skip


def size_bytes(body: Absorption) -> int:
    """What a verifier has to fetch for this claim alone."""
    return body.source_bytes + body.shard_bytes


def too_large(most: Limits, size: int, ops: int) -> str:
    """Why a model of this cost is not taken; empty if it is.

    Args:
        size: bytes of source and shard; ops: operations of the source for one item.
    """
    if size > most.bytes_max:
        return f"Too large for this mesh: {_mb(size)} of source and shard, and at most {_mb(most.bytes_max)} are taken."
    if ops > most.ops_max:
        return f"Too slow for this mesh: {_millions(ops)} an item, and at most {_millions(most.ops_max)} are taken."
    return ""


def _mb(size: int) -> str:
    return f"{-(-size // 1_000_000)} MB"


def _millions(ops: int) -> str:
    return f"{-(-ops // 1_000_000)} million operations"


def free(most: Limits, size: int, ops: int) -> bool:
    """Whether every trusted node has to take on a model of this cost."""
    return size <= most.bytes_free and ops <= most.ops_free


def fault(task: Task, body: Absorption) -> str:
    """Why the declared cost keeps an absorption from being a claim; empty if it does not."""
    return too_large(limits(task.spec), size_bytes(body), body.ops)


def takes(join: Join, task: Task, body: Absorption) -> bool:
    """Whether a node has said that it verifies models of this cost, or has to because it is small."""
    least = limits(task.spec)
    fits = size_bytes(body) <= max(join.verify_bytes, least.bytes_free)
    return fits and body.ops <= max(join.verify_ops, least.ops_free)


def able(view: View, claim: Claim, names: Iterable[bytes]) -> tuple[bytes, ...]:
    """Those of some nodes that verify a claim of this cost, in their order; of an experiment, all."""
    body = claim.body
    if not isinstance(body, Absorption):
        return tuple(names)
    found = []
    for who in names:
        member = view.members.get(who)
        if member is not None and member.join is not None and takes(member.join.body, claim.task, body):
            found.append(who)
    return tuple(found)


def judges(view: View, claim: Claim, trusted: Mapping[bytes, int]) -> dict[bytes, int]:
    """The trust of those who can be asked about a claim of this cost."""
    return {who: trusted[who] for who in able(view, claim, trusted)}


def enough(trusted: Mapping[bytes, int], others: Iterable[bytes], takers: Iterable[bytes]) -> bool:
    """Whether those who take a claim on hold half of the trust that could: else its size would choose the judges."""
    return 2 * sum(trusted[who] for who in takers) >= sum(trusted[who] for who in others)


def waits(claim: Claim) -> str:
    """Why a claim waits for nodes that take it on."""
    body = claim.body
    assert isinstance(body, Absorption), "only absorptions have a size"
    return (
        f"Too large for the nodes that are here: it takes {_mb(size_bytes(body))} and {_millions(body.ops)} an item, "
        "and those who have said that they verify so much hold less than half of the others' trust "
        "(settings verify_bytes_max and verify_ops_max)."
    )
