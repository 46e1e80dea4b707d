"""From an empty directory to a member of a mesh: identity, genesis or ticket, join."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spore_borg import __version__
from spore_borg.config import load, set_value
from spore_borg.errors import UsageError
from spore_borg.home import Home
from spore_borg.node import identity, ticket
from spore_borg.node.hub import Hub
from spore_borg.records.bodies import Genesis, Join, Profile
from spore_borg.records.cid import Cid
from spore_borg.records.keys import SigningKey, node_name
from spore_borg.records.onion import Onion
from spore_borg.views.reduce import invitation_message

AGENT = f"spore-borg/{__version__}"
ONION_MARGIN = 8  # layers left over: a record's epoch may be a little ahead of the clock's


def open_hub(home: Home, join: str | None, *, epoch_ms: int, name: str) -> tuple[Hub, bytes]:
    """The hub of this directory; makes identity and mesh where there are none.

    Args:
        join: a ticket's text, only before a mesh is chosen.
        epoch_ms, name: of a new mesh.
    Returns:
        The hub and the key's 32-byte seed.
    Raises:
        UsageError: the ticket is damaged, or this directory already belongs to another mesh.
    """
    invitation = None if join is None else ticket.parse(join)
    key, seed = identity.load_or_create(home.key)
    hub = Hub(home, key, None)
    # A node that was killed between founding its mesh and noting it down has the genesis in its log.
    chosen = hub.log.meta("mesh") or (None if hub.mesh is None else str(hub.mesh))
    if invitation is not None:
        if chosen is not None and chosen != str(invitation.mesh):
            hub.close()
            raise UsageError(
                detail=f"The directory {home.path} already belongs to the mesh {chosen}. "
                "Give another directory with --home to join this one."
            )
        hub.log.set_meta("ticket", join or "")
        hub.log.set_meta("mesh", str(invitation.mesh))
        hub.mesh = invitation.mesh
    elif chosen is not None:
        hub.log.set_meta("mesh", chosen)
        hub.mesh = Cid.parse(chosen)
    else:
        _found(hub, epoch_ms, name)
    return hub, seed


def _found(hub: Hub, epoch_ms: int, name: str) -> None:
    """Begin a mesh of one's own."""
    genesis = hub.write(
        Genesis(
            name=name or f"mesh of {node_name(hub.me)[:8]}",
            roots=(hub.me,),
            time_ms=time.time_ns() // 1_000_000,
            epoch_ms=epoch_ms,
            nonce=secrets.token_bytes(16),
            params={},
        )
    )
    hub.log.set_meta("mesh", str(genesis.cid))


def stored_ticket(hub: Hub) -> ticket.Ticket | None:
    """The ticket by which this node came, for its address and its invitation."""
    text = hub.log.meta("ticket")
    return ticket.parse(text) if text else None


def onion_of(key: SigningKey, number: int) -> Onion:
    """The hash onion of the node's join with this number (0, 1, …)."""
    return Onion(key.derive(f"onion{number}"))


def ensure_join(
    hub: Hub, hello: Mapping[str, Any], role: str, verify_bytes: int = 0, verify_ops: int = 0
) -> tuple[Onion, int]:
    """Join, or join again where hardware, role, capacity or onion have changed.

    Args:
        hello: the worker's answer: family, device, memory_mb, cores, fingerprint (hexadecimal).
        role: research, verify or sync.
        verify_bytes, verify_ops: absorptions up to this cost are verified here; smaller ones always are.
    Returns:
        The onion and the epoch from which its values count.
    """
    joins = hub.own("join")
    if joins:
        onion = onion_of(hub.key, len(joins) - 1)
        body, used = joins[-1].body, hub.epoch() - joins[-1].epoch
        said = body.fingerprint.hex(), body.role, body.anchor, body.verify_bytes, body.verify_ops
        same = said == (hello["fingerprint"], role, onion.anchor, verify_bytes, verify_ops)
        if same and used < onion.length - ONION_MARGIN:
            return onion, joins[-1].epoch
    onion = onion_of(hub.key, len(joins))
    record = hub.write(
        Join(
            family=hello["family"],
            device=str(hello.get("device", hello["family"]))[:120],
            memory_mb=int(hello.get("memory_mb", 0)),
            cores=int(hello.get("cores", 0)),
            fingerprint=bytes.fromhex(hello["fingerprint"]),
            anchor=onion.anchor,
            role=role,
            agent=AGENT,
            invite=None if joins else _proof(hub),
            stamp=None,
            verify_bytes=verify_bytes,
            verify_ops=verify_ops,
        )
    )
    return onion, record.epoch


def _proof(hub: Hub) -> tuple[Cid, bytes] | None:
    """Proof that this node holds an invitation's one-time key."""
    came_by = stored_ticket(hub)
    if came_by is None or came_by.invite is None or hub.mesh is None:
        return None
    invite, seed = came_by.invite
    return invite, SigningKey(seed).sign(invitation_message(hub.mesh, hub.me))


def ensure_profile(hub: Hub, name: str) -> None:
    """Publish the display name, once for each change."""
    profiles = hub.own("profile")
    if name and (not profiles or profiles[-1].body.display_name != name):
        hub.write(Profile(display_name=name, bio="", website="", avatar_url="", donation_address=""))


def init(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``borg init`` does: identity and mesh, nothing started.

    Raises:
        UsageError, Locked: as ``open_hub`` and ``Home.lock``.
    """
    home = Home(path).create()
    with home.lock():
        for setting in ("task", "epoch_ms", "name"):
            if options.get(setting) is not None:
                set_value(home.config, setting, str(options[setting]))
        config = load(home.config)
        hub, _ = open_hub(home, options.get("join"), epoch_ms=config.epoch_ms, name=config.name)
        try:
            return {
                "home": str(home.path),
                "node": node_name(hub.me),
                "mesh": str(hub.mesh),
                "next": "borg run",
            }
        finally:
            hub.close()
