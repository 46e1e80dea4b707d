"""Admission: the rules that need other records and the local epoch. Everything else is in ``envelope``.

A record is admitted only when all that it names as seen is here, so the stored set is always closed.
Spec: spec/12-admission.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from spore_borg.limits import FUTURE_EPOCHS_MAX
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.records.reasons import Missing, Refused


class Stub(NamedTuple):
    """What admission must know of a stored record."""

    author: bytes
    seq: int
    epoch: int


def check_context(record: Record, mesh: Cid, lookup: Callable[[Cid], Stub | None], epoch_now: int) -> None:
    """Check a parsed record against the stored ones.

    Args:
        record: from ``envelope.parse``.
        mesh: the mesh that this node belongs to.
        lookup: a stored record's stub, or None.
        epoch_now: the local clock's epoch; only tells how far ahead a record may be.

    Raises:
        Missing: some parents are not here yet.
        Refused: wrong-mesh, second-genesis, future-epoch, bad-sequence, epoch-before-parent.
    """
    if record.mesh_cid != mesh:
        raise Refused("second-genesis" if record.mesh is None else "wrong-mesh")
    if record.epoch > epoch_now + FUTURE_EPOCHS_MAX:
        raise Refused("future-epoch", f"epoch {record.epoch}; the clock here says {epoch_now}")
    stubs = {cid: lookup(cid) for cid in record.past()}
    missing = tuple(cid for cid, stub in stubs.items() if stub is None)
    if missing:
        raise Missing(missing)
    if record.prev is not None:
        before = stubs[record.prev]
        if before is None or before.author != record.author or before.seq + 1 != record.seq:
            raise Refused("bad-sequence")
    if any(stub is not None and stub.epoch > record.epoch for stub in stubs.values()):
        raise Refused("epoch-before-parent")
