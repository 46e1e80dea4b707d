"""What is inside a signed record: its bytes, its decoded body, and the ids that it names."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from explorer.db import Db
from spore_borg.records.canonical import decode
from spore_borg.records.cid import Cid
from spore_borg.records.reasons import Refused

HEX_BYTES_MAX = 2_048  # of the bytes, shown as hex; the whole is one click away
LINKS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A record or blob that the record names, and where in it."""

    path: str
    cid: str
    record: bool  # a record's id (dag-cbor); else a blob's


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """The signed bytes of a record."""

    received_ms: int | None
    size_bytes: int
    hex_start: str  # the first bytes
    decoded: object  # as DAG-JSON: links {"/": cid}, bytes {"/": {"bytes": base64}}
    links: tuple[Link, ...]


def dag_json(value: object) -> object:
    """A decoded value as DAG-JSON types."""
    if isinstance(value, Cid):
        return {"/": str(value)}
    if isinstance(value, bytes):
        return {"/": {"bytes": base64.b64encode(value).decode().rstrip("=")}}
    if isinstance(value, list):
        return [dag_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): dag_json(item) for key, item in value.items()}
    return value


def _links(value: object, path: str, out: list[Link]) -> None:
    if len(out) >= LINKS_MAX:
        return
    if isinstance(value, Cid):
        text = str(value)
        out.append(Link(path=path, cid=text, record=text.startswith("bafy")))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _links(item, f"{path}[{index}]", out)
    elif isinstance(value, dict):
        for key, item in value.items():
            _links(item, f"{path}.{key}" if path else str(key), out)


def raw_of(db: Db, cid: str) -> tuple[bytes, int | None] | None:
    """The signed bytes and their arrival, or None if the log is not here."""
    try:
        key = Cid.parse(cid)
    except ValueError:
        return None
    return db.raw(bytes(key))


def signed(db: Db, cid: str) -> Signed | None:
    """The signed bytes, opened; None if the log does not hold them."""
    found = raw_of(db, cid)
    if found is None:
        return None
    raw, received_ms = found
    links: list[Link] = []
    try:
        value: object = decode(raw)
    except Refused:
        decoded: object = None
    else:
        decoded = dag_json(value)
        _links(value, "", links)
    return Signed(
        received_ms=received_ms,
        size_bytes=len(raw),
        hex_start=raw[:HEX_BYTES_MAX].hex(),
        decoded=decoded,
        links=tuple(links),
    )
