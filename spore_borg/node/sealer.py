"""One seal an epoch: this node's onion value, and by its parents everything that it has seen."""

from __future__ import annotations

from spore_borg.node.clock import SEAL_AT
from spore_borg.node.hub import Hub
from spore_borg.records.bodies import Seal
from spore_borg.records.onion import Onion


async def seal_forever(hub: Hub, onion: Onion, first_epoch: int) -> None:
    """Seal every epoch, late in it, once."""
    assert hub.clock is not None, "a node joins after it has the genesis"
    while True:
        epoch = hub.epoch()
        seals = hub.own("seal")
        if seals and seals[-1].epoch >= epoch:
            await hub.clock.until(seals[-1].epoch + 1, 0.0)
            continue
        await hub.clock.until(epoch, SEAL_AT)

        def body(at: int) -> Seal:
            settled = max(0, hub.view.round_settled)
            return Seal(
                value=onion.value(at - first_epoch), round=settled, digest=hub.view.digest_of(settled)
            )

        hub.write(body)
