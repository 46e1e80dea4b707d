"""This node's tickets: an invitation record each, whose one-time key stays here until somebody used it."""

from __future__ import annotations

import secrets
import socket

from spore_borg.node.drawer import Drawer
from spore_borg.node.hub import Hub
from spore_borg.node.ticket import Ticket
from spore_borg.records.bodies import ONE, Invite
from spore_borg.records.cid import Cid
from spore_borg.records.keys import SigningKey

ENDOWMENT = 3 * ONE  # two units of trust above the entry cost
VALID_S = 7 * 86_400


class Invitations:
    """Makes tickets and finds the one that is still unused."""

    def __init__(self, hub: Hub, address: tuple[str, int]) -> None:
        self.hub, self.address = hub, address
        self._seeds = Drawer(hub.home.work / "invites")

    def current(self) -> str | None:
        """The newest ticket that nobody has used; makes one where there is none. None while trust is missing."""
        for record in reversed(self.hub.own("invite")):
            unused = self.hub.view.invite_uses.get(record.cid, 0) < record.body.uses
            kept = self._seeds.get(record.body.key)
            if unused and kept is not None and record.body.until > self.hub.epoch():
                return self._ticket((record.cid, bytes.fromhex(kept["seed"]))).text()
        return self.fresh()

    def fresh(self) -> str | None:
        """A ticket with an invitation of its own. None while this node has no trust to invite with."""
        if not self.hub.view.ledger.trust.get(self.hub.me) or self.hub.clock is None:
            return None
        seed = secrets.token_bytes(32)
        public = SigningKey(seed).public
        self._seeds.put(public, {"seed": seed.hex()})
        until = self.hub.epoch() + VALID_S * 1000 // self.hub.clock.epoch_ms
        record = self.hub.write(Invite(key=public, endowment=ENDOWMENT, uses=1, until=until))
        return self._ticket((record.cid, seed)).text()

    def plain(self) -> str:
        """A ticket without an invitation: its holder earns trust by work."""
        return self._ticket(None).text()

    def _ticket(self, invite: tuple[Cid, bytes] | None) -> Ticket:
        assert self.hub.mesh is not None, "a running node has a mesh"
        host, port = self.address
        hosts = _own_addresses() if host in ("0.0.0.0", "::") else [host]  # noqa: S104 - compared, not bound
        return Ticket(self.hub.mesh, tuple((h, port) for h in hosts), self.hub.me, invite)


def _own_addresses() -> list[str]:
    """Addresses of this machine that others may reach, loopback last."""
    try:
        items = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:  # a machine whose own name nobody knows
        items = []
    found = {item[4][0] for item in items} or {"127.0.0.1"}
    return sorted((str(address) for address in found), key=lambda text: text.startswith(("127.", "::1")))[:4]
