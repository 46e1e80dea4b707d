"""One seal an epoch: this node's onion value, and by its parents everything that it has seen."""

from __future__ import annotations

from collections.abc import Callable

from spore_borg.node.clock import SEAL_AT
from spore_borg.node.hub import Hub
from spore_borg.node.setup import ONION_MARGIN
from spore_borg.records.bodies import Seal
from spore_borg.records.onion import Onion


async def seal_forever(hub: Hub, joined: Callable[[], tuple[Onion, int]]) -> None:
    """Seal every epoch, late in it, once.

    Args:
        joined: the onion of this node's present join and the join's epoch; joins again when the onion is used up.
    """
    assert hub.clock is not None, "a node joins after it has the genesis"
    onion, first_epoch = joined()
    while True:
        epoch = hub.epoch()
        seals = hub.own("seal")
        if seals and seals[-1].epoch >= epoch:
            await hub.clock.until(seals[-1].epoch + 1, 0.0)
            continue
        await hub.clock.until(epoch, SEAL_AT)
        if hub.epoch() - first_epoch >= onion.length - ONION_MARGIN:
            onion, first_epoch = joined()
            hub.event("joined", "again, with a new hash onion: the last one is used up")
        hub.write(_seal(hub, onion, first_epoch))


def _seal(hub: Hub, onion: Onion, first_epoch: int) -> Callable[[int], Seal]:
    settled = max(0, hub.view.round_settled)
    digest = hub.view.digest_of(settled)
    return lambda at: Seal(value=onion.value(at - first_epoch), round=settled, digest=digest)
