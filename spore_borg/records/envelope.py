"""The envelope: one record is one signed map, and its cid covers every byte of it.

Order of checks for bytes from outside: size, canonical form, shape, signature, body.
Spec: spec/10-records.md; vectors: spec/vectors/records/.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from spore_borg.limits import PARENTS_MAX, RECORD_SIZE_BYTES_MAX
from spore_borg.records import bodies, keys
from spore_borg.records.canonical import decode, encode
from spore_borg.records.cid import DAG_CBOR, Cid
from spore_borg.records.reasons import Refused

VERSION = 1
_DOMAIN = b"spore-borg/record/1\0"
_FIELDS = frozenset(("v", "kind", "mesh", "author", "seq", "prev", "epoch", "parents", "body", "sig"))
_EPOCH_MAX = 1 << 40


@dataclass(frozen=True, slots=True)
class Record:
    """A signed record.

    Attributes:
        kind: which body.
        mesh: cid of the genesis; None in the genesis itself.
        author: Ed25519 key, 32 bytes.
        seq: 0, 1, 2, … of this author.
        prev: the author's record with seq - 1; None at 0.
        epoch: the author's epoch; not before any parent's.
        parents: records that the author had seen, sorted, without repetition.
        body: dataclass of ``bodies``.
        sig: 64 bytes over the domain and the hash of all other fields.
        raw: canonical bytes; cid: their CIDv1.
    """

    kind: str
    mesh: Cid | None
    author: bytes
    seq: int
    prev: Cid | None
    epoch: int
    parents: tuple[Cid, ...]
    body: Any
    sig: bytes = field(repr=False)
    cid: Cid
    raw: bytes = field(repr=False)

    def past(self) -> tuple[Cid, ...]:
        """Every record that this one names as seen: its parents and its author's previous one."""
        return self.parents if self.prev is None or self.prev in self.parents else (*self.parents, self.prev)

    @property
    def mesh_cid(self) -> Cid:
        """The mesh that the record belongs to; a genesis belongs to itself."""
        return self.cid if self.mesh is None else self.mesh


def _message(unsigned: bytes) -> bytes:
    """What is signed: the domain and the hash of the canonical bytes without ``sig``."""
    return _DOMAIN + hashlib.sha256(unsigned).digest()


def _without_sig(raw: bytes, sig: bytes) -> bytes:
    """The canonical bytes of the other nine fields, cut out instead of encoded again.

    In canonical order only v and seq stand before sig, 17 bytes at most, so its first occurrence is it.
    """
    before, _, after = raw.partition(b"\x63sig\x58\x40" + sig)
    return b"\xa9" + before[1:] + after


def sign(
    key: keys.SigningKey,
    body: bodies.Body,
    *,
    mesh: Cid | None,
    seq: int,
    prev: Cid | None,
    epoch: int,
    parents: tuple[Cid, ...],
) -> Record:
    """Make a record; it passes through the same checks as one from a peer."""
    unsigned = {
        "v": VERSION, "kind": body.KIND, "mesh": mesh, "author": key.public, "seq": seq, "prev": prev,
        "epoch": epoch, "parents": sorted(set(parents)), "body": body.to_map(),
    }  # fmt: skip
    return parse(encode({**unsigned, "sig": key.sign(_message(encode(unsigned)))}))


def parse(raw: bytes, *, trusted: bool = False) -> Record:
    """Read one record from its bytes.

    Args:
        raw: canonical bytes.
        trusted: the bytes were admitted before (they come from our own log): skip the signature.

    Raises:
        Refused: with the reason code of the first rule that is broken.
    """
    if len(raw) > RECORD_SIZE_BYTES_MAX:
        raise Refused("too-large", f"{len(raw)} bytes; at most {RECORD_SIZE_BYTES_MAX}")
    value = decode(raw)
    if type(value) is not dict or value.keys() != _FIELDS:
        raise Refused("bad-envelope", "the fields of an envelope are " + ", ".join(sorted(_FIELDS)))
    _check_envelope(value)
    sig = value["sig"]
    if not trusted:
        if not keys.usable(value["author"]):
            raise Refused("bad-key")
        if not keys.verify(value["author"], _message(_without_sig(raw, sig)), sig):
            raise Refused("bad-signature")
    body = bodies.KINDS[value["kind"]].from_map(value["body"])
    return Record(
        kind=value["kind"], mesh=value["mesh"], author=value["author"], seq=value["seq"], prev=value["prev"],
        epoch=value["epoch"], parents=tuple(value["parents"]), body=body, sig=sig, cid=Cid.of(raw, DAG_CBOR), raw=raw,
    )  # fmt: skip


def _check_envelope(value: dict[str, Any]) -> None:
    if value["v"] != VERSION or type(value["v"]) is not int:
        raise Refused("bad-version")
    kind, mesh, seq, prev, parents = (value[name] for name in ("kind", "mesh", "seq", "prev", "parents"))
    if type(kind) is not str or kind not in bodies.KINDS:
        raise Refused("bad-kind")
    for name, size in (("author", 32), ("sig", 64)):
        if type(value[name]) is not bytes or len(value[name]) != size:
            raise Refused("bad-envelope", f"{name} has {size} bytes")
    for name in ("seq", "epoch"):
        if type(value[name]) is not int or not 0 <= value[name] <= _EPOCH_MAX:
            raise Refused("bad-envelope", f"{name} is a whole number from 0 to {_EPOCH_MAX}")
    if type(parents) is not list:
        raise Refused("bad-envelope", "parents is a list of links")
    links = (*parents, *(link for link in (mesh, prev) if link is not None))
    if any(type(link) is not Cid or link.codec != DAG_CBOR for link in links):
        raise Refused(
            "bad-envelope", "mesh, prev and parents are links to records"
        )  # a blob never arrives as one
    if (seq == 0) != (prev is None):
        raise Refused("bad-sequence")
    if kind == "genesis":
        if mesh is not None or seq or value["epoch"] or parents:
            raise Refused("bad-envelope", "a genesis has no mesh, no parents, seq 0 and epoch 0")
    elif mesh is None:
        raise Refused("bad-envelope", "mesh is the link of the genesis")
    elif not 1 <= len(parents) <= PARENTS_MAX or any(a >= b for a, b in pairwise(parents)):
        raise Refused("bad-parents")
