"""Every reason for which a record is not taken. The code is what travels and what spec/ names."""

from __future__ import annotations

from spore_borg.errors import BorgError

REASONS: dict[str, str] = {
    "too-large": "The record is larger than the limit.",
    "not-cbor": "The bytes are not one complete CBOR item within the depth and item limits.",
    "not-canonical": "The bytes are not the canonical DAG-CBOR of what they say.",
    "forbidden-type": "A value has a type that records may not hold (floats, tags other than links, …).",
    "bad-envelope": "A field of the envelope is missing, superfluous or of the wrong type.",
    "bad-version": "The envelope has a version that this node does not know.",
    "bad-kind": "The record's kind is not known.",
    "bad-body": "A field of the body is missing, superfluous, of the wrong type or out of bounds.",
    "bad-key": "The author's key is not a usable Ed25519 key (not canonical, not a point, or not of prime order).",
    "bad-signature": "The signature does not fit the author and the content.",
    "wrong-mesh": "The record belongs to another mesh.",
    "missing-parents": "Not all parents are here yet; the record waits for them.",
    "bad-parents": "The parents are repeated, unsorted, too many or none.",
    "bad-sequence": "seq is not the previous record's seq plus one, or prev is another author's record.",
    "epoch-before-parent": "The epoch is earlier than a parent's.",
    "future-epoch": "The epoch lies too far ahead of the local clock; the record may be offered again later.",
    "second-genesis": "A mesh has exactly one genesis.",
}


class Refused(BorgError):
    """The record is refused ({code}): {detail}"""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        super().__init__(code=code, detail=detail or REASONS[code])


class Missing(Refused):
    """The record is refused ({code}): {detail}"""

    def __init__(self, cids: tuple[bytes, ...]) -> None:
        self.cids = cids
        super().__init__("missing-parents")
