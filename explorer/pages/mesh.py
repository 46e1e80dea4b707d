"""``/mesh``: the peers that this node talks to, how far behind each known node is, and the mesh's last rounds."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import ClassVar

from explorer import show
from explorer.db import Db
from explorer.pages.common import LAST, filled, frame, leaders_rows, live_values, objects, who
from explorer.values import Frame, Page, Who
from spore_borg.views.health import PARTS, POINTS_MAX, SPAN

NODES_ROWS = 50
PEERS_MAX = 200
ROUNDS_SHOWN = 60
HEALTH = ("psi", *PARTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One connection of this node, as it says; None where it does not know."""

    name: str  # the node's name
    display: str | None
    address: str
    direction: str  # in or out
    agent: str
    role: str
    latency_ms: float | None
    behind: int | None  # records of it that this node knows of and has still to fetch
    queued_bytes: int | None
    rejected: int | None
    synced: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One node, and how far its last seal is behind the newest round here."""

    node: Who
    me: bool
    hardware_class: str
    role: str
    banned: bool
    last_epoch: int
    lag_epochs: int | None
    last_round: int | None
    lag_rounds: int | None
    digest_round: int | None  # of the view that it last reported
    digest: str | None
    digest_same: bool | None  # equal to this node's of that round; None: not comparable


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round. Trust in 2^-20."""

    round: int
    epoch: int
    seals: int
    trust: int  # of the nodes that sealed it
    trust_total: int
    acknowledged: int  # records
    settled: bool
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPoint:
    """A part at a round, in parts per million; None: there was nothing to measure."""

    round: int
    value: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPart:
    """Ψ or one of its parts: the newest value, the two numbers that it is made of, and how it moved.

    ``a``, ``b``: claims confirmed, claims (verified); live nodes, records asked for (synchrony); directions, frontier
    steps (diversity); gain now and before, in thousandths of σ per 10^15 FLOP (learning); 0 (psi).
    """

    name: str
    value: int | None
    a: int
    b: int
    points: tuple[HealthPoint, ...]  # oldest first; the last is the newest value


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshPage(Page):
    """Peers, nodes and rounds. ``after`` is the key of the next page of nodes."""

    name: ClassVar[str] = "mesh"
    live: ClassVar[tuple[str, ...]] = ("view", "live")
    health: tuple[
        HealthPart, ...
    ]  # psi, verified, synchrony, diversity, learning; empty before the first settled round
    span: int  # rounds that verified and learning look back
    peers: tuple[Peer, ...]
    nodes: tuple[Known, ...]
    after: str | None
    first: bool
    rounds: tuple[Round, ...]  # newest first


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and abs(value) < LAST else None


def _text(value: object) -> str:
    return show.plain(value, 80) if isinstance(value, str) else ""


def _peer(db: Db, said: dict[str, object]) -> Peer:
    name = _text(said.get("node") or said.get("name"))
    row = db.one("node", name=name) if show.is_node(name) else None
    latency, synced = said.get("latency_ms"), said.get("synced")
    return Peer(
        name=name if show.is_node(name) else "",
        display=None if row is None else row["display"],
        address=_text(said.get("address")),
        direction=_text(said.get("direction")),
        agent=_text(said.get("agent")),
        role=_text(said.get("role")),
        latency_ms=float(latency) if isinstance(latency, int | float) and abs(latency) < LAST else None,
        behind=_number(said.get("behind")),
        queued_bytes=_number(said.get("queued_bytes")),
        rejected=_number(said.get("rejected")),
        synced=synced if isinstance(synced, bool) else None,
    )


def known(db: Db, at: Frame, rows: list[sqlite3.Row]) -> tuple[Known, ...]:
    """Node rows with their lag."""
    digests: dict[int, str | None] = {}
    for number in {row["digest_round"] for row in rows if row["digest_round"] is not None}:
        found = db.one("round", round=number)
        digests[number] = found["digest"] if found is not None else None
    return tuple(_known(row, at, digests.get(row["digest_round"])) for row in rows)


def _known(row: sqlite3.Row, at: Frame, ours: str | None) -> Known:
    last = row["last_round"]
    return filled(
        Known,
        row,
        node=who(row, "name"),
        me=row["name"] == at.me,
        lag_epochs=None if at.epoch is None else max(0, at.epoch - row["last_epoch"]),
        lag_rounds=None if at.round is None or last is None else max(0, at.round - last),
        digest_same=row["digest"] == ours if row["digest"] and ours else None,
    )


def health(db: Db) -> tuple[HealthPart, ...]:
    """Ψ and its parts over the settled rounds."""
    rows = db.all("health", upto=LAST, limit=POINTS_MAX * len(HEALTH))
    out = []
    for name in HEALTH:
        own = sorted((row for row in rows if row["part"] == name), key=lambda row: row["round"])
        if own:
            points = tuple(HealthPoint(round=row["round"], value=row["value"]) for row in own)
            last = own[-1]
            out.append(HealthPart(name=name, value=last["value"], a=last["a"], b=last["b"], points=points))
    return tuple(out)


def mesh(db: Db, *, after: str | None = None) -> MeshPage:
    """Build the page of peers, nodes and rounds.

    Args:
        after: key of the page of nodes, ``TRUST.NAME`` of the last one seen.
    Raises:
        UsageError: a key that no page gives.
    """
    at = frame(db)
    rows = leaders_rows(db, after, NODES_ROWS + 1)
    shown, more = rows[:NODES_ROWS], len(rows) > NODES_ROWS
    peers = objects(live_values(db).get("peers"))
    settled = -1 if at.round_settled is None else at.round_settled
    return MeshPage(
        frame=at,
        health=health(db),
        span=SPAN,
        peers=tuple(_peer(db, peer) for peer in peers[:PEERS_MAX]),
        nodes=known(db, at, shown),
        after=f"{shown[-1]['trust']}.{shown[-1]['name']}" if more else None,
        first=not after,
        rounds=tuple(
            filled(Round, row, settled=row["round"] <= settled)
            for row in db.all("rounds", upto=LAST, limit=ROUNDS_SHOWN)
        ),
    )
