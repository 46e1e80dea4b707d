"""Signed records for the tests of the store, and a child process to be killed."""

from __future__ import annotations

import hashlib

from spore_borg.records import bodies
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record, sign
from spore_borg.records.keys import SigningKey

KEY = SigningKey(hashlib.sha256(b"store tests").digest())
OTHER = SigningKey(hashlib.sha256(b"store tests, another").digest())


def genesis(name: str = "store tests") -> Record:
    """The first record of a mesh."""
    body = bodies.Genesis(
        name=name, roots=(KEY.public,), time_ms=0, epoch_ms=1_000, nonce=b"\0" * 16, params={}
    )  # fmt: skip
    return sign(KEY, body, mesh=None, seq=0, prev=None, epoch=0, parents=())


def follow(
    mesh: Cid, last: tuple[int, Cid] | None, *, parents: tuple[Cid, ...] = (), epoch: int = 1, key: SigningKey = KEY,
    bio: str = "",
) -> Record:  # fmt: skip
    """The author's next record: a profile."""
    body = bodies.Profile(display_name="x", bio=bio, website="", avatar_url="", donation_address="")
    seq, prev = (0, None) if last is None else (last[0] + 1, last[1])
    return sign(key, body, mesh=mesh, seq=seq, prev=prev, epoch=epoch, parents=parents or (prev or mesh,))


def chain(length: int, key: SigningKey = KEY) -> list[Record]:
    """A genesis and ``length - 1`` records of one author after it."""
    records = [genesis()]
    last = (0, records[0].cid) if key is KEY else None
    for number in range(1, length):
        record = follow(records[0].cid, last, epoch=1 + number // 4, key=key)
        records.append(record)
        last = (record.seq, record.cid)
    return records
