"""Reconciliation between real nodes on loopback: cold sync, ten old records missing, a restart with nothing new.

CPU is that of both (all three) nodes, which run in this process, from the dial on. Bytes are the kernel's count on the
TCP connections, both ways, TLS and its handshake included. The homes lie in memory where the machine allows it: the
disk is measured by ``ingest``. Views are not folded.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass

import trio

from spore_borg.protocol.messages import Recon, Want
from spore_borg.records.envelope import Record
from tests.bench._nodes import Node, room, until
from tests.bench._rows import emit
from tests.bench._workload import MIX, OLD, mesh

COUNT = 10_000
LIMIT_S = 120.0
QUIET_S = 2.0  # after a restart: so long nothing may move


@dataclass
class Found:
    """What one run cost."""

    bytes: int
    cpu_s: float
    trips: int
    records: int


async def _meet(server: list[Node], client: Node, want: int) -> Found:
    """The client dials the servers until it holds ``want`` records."""
    held = client.hub.log.count()
    async with trio.open_nursery() as nursery:
        for node in (*server, client):
            await nursery.start(node.peers.run)
        began_s = time.process_time()
        for node in server:
            client.dial(node)
        ready = lambda: len(client.peers.core.ready()) == len(server)  # noqa: E731
        synced = lambda: all(peer.synced_s is not None for peer in client.peers.core.ready())  # noqa: E731
        await until(lambda: ready() and client.hub.log.count() >= want, LIMIT_S)
        cpu_s = time.process_time() - began_s
        if held == want:
            await until(synced, LIMIT_S)
            await trio.sleep(QUIET_S)
            cpu_s = time.process_time() - began_s
        trips = len(client.wire.messages(Recon)) + bool(client.wire.messages(Want))
        found = Found(client.wire.bytes(), cpu_s, trips, client.hub.log.count() - held)
        nursery.cancel_scope.cancel()
    return found


def once(full: list[Record], start: list[Record], servers: int = 1) -> Found:
    """One run between fresh homes."""
    genesis = full[0].cid
    nodes = [Node(number, full, genesis, room()) for number in range(servers)]
    client = Node(servers, start, genesis, room())
    gc.collect()
    try:
        return trio.run(_meet, nodes, client, len(full))
    finally:
        for node in (*nodes, client):
            node.close()


def main() -> None:
    """Every row."""
    kept = []  # a list must outlive the log that is remembered for it
    for name, kinds, repetitions in (("mix", MIX, 3), ("experiments", ("experiment",), 2)):
        records, old = mesh(COUNT, kinds)
        empty = records[:1]
        kept += [records, empty]
        cold = [once(records, empty) for _ in range(repetitions)]
        note = f"{sum(len(r.raw) for r in records) / COUNT:.0f} B a record before compression"
        emit(f"sync_{name}_bytes", [found.bytes / 1e6 for found in cold], note)
        emit(f"sync_{name}_cpu", [found.cpu_s for found in cold])
    # The ten may stand in the log after records of later epochs: arrival is not order.
    full = sorted([*records[: COUNT - OLD], *old], key=lambda record: record.epoch)
    lacking = [record for record in full if record not in old]
    missing = [once(full, lacking) for _ in range(2)]
    emit("missing_bytes", [found.bytes / 1e3 for found in missing])
    emit("missing_cpu", [found.cpu_s for found in missing])
    emit("missing_trips", [found.trips for found in missing])
    emit("missing_recovered", [found.records for found in missing])
    restart = [once(records, records, servers=2) for _ in range(2)]
    emit("restart_bytes", [found.bytes / 1e3 for found in restart])
    emit("restart_cpu", [found.cpu_s for found in restart])


if __name__ == "__main__":
    main()
