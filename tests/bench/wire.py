"""The wire alone: two cores in memory, and eight nodes over loopback TLS, with toy records of about 500 bytes.

Prints one JSON object. ``sync`` and ``spread`` measure the same with real records, signatures and disks.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from random import Random

import trio

from spore_borg.node.peers import Peers
from spore_borg.node.transport import Endpoint
from spore_borg.records.cid import Cid
from spore_borg.sim.toy import ToyRecord, ToyStore, chain
from spore_borg.sim.wire import Net
from spore_borg.store.blobs import Blobs

NODES, WARM, MEASURED = 8, 30, 100


def meet(first: list[ToyRecord], second: list[ToyRecord]) -> dict[str, float]:
    """The second node dials the first; the cost until both are equal."""
    net = Net([ToyStore(first), ToyStore(second)], seed=1)
    began = time.process_time()
    net.connect(1, 0)
    net.run(2)
    assert net.run(300, net.converged)
    cpu_s = time.process_time() - began
    return {
        "bytes": net.traffic.bytes,
        "recon_bytes": net.traffic.by_kind.get("Recon", 0) + net.traffic.by_kind.get("ReconReply", 0),
        "records_bytes": net.traffic.by_kind.get("Records", 0),
        "record_bodies": net.traffic.bodies,
        "cpu_s": round(cpu_s, 3),
    }


def without(records: list[ToyRecord], count: int) -> list[ToyRecord]:
    """All but ``count`` of them."""
    gone = set(Random(2).sample(range(len(records)), k=count))
    return [record for number, record in enumerate(records) if number not in gone]


async def spread() -> dict[str, float]:
    """Publish → stored by all of eight fully connected nodes."""
    with tempfile.TemporaryDirectory() as directory:
        stores = [ToyStore(chain(20)) for _ in range(NODES)]
        nodes: list[Peers] = []
        times: list[float] = []
        async with trio.open_nursery() as nursery:
            for number, store in enumerate(stores):
                known = [(peer.address, peer.me) for peer in nodes if peer.address is not None]
                blobs = Blobs(Path(directory) / str(number))
                node = Peers(
                    bytes([number + 1]) * 32, Cid.of(b"mesh"), store, store, blobs,
                    listen=Endpoint("127.0.0.1", 0), peers=known, rng=Random(number),
                )  # fmt: skip
                await nursery.start(node.run)
                nodes.append(node)
            while any(len(node.status()) < NODES - 1 for node in nodes):  # noqa: ASYNC110 - nothing to wait on
                await trio.sleep(0.05)
            for number in range(WARM + MEASURED):
                if number == WARM:
                    before = sum(store.bodies for store in stores)
                who = number % NODES
                record = stores[who].put(ToyRecord(1, (), os.urandom(480)))
                began = time.perf_counter()
                nodes[who].publish([record])
                while not all(store.has(record.cid) for store in stores):
                    await trio.lowlevel.checkpoint()
                if number >= WARM:
                    times.append(1_000 * (time.perf_counter() - began))
                await trio.sleep(0.01)
            await trio.sleep(0.5)
            bodies = (sum(store.bodies for store in stores) - before) / MEASURED
            nursery.cancel_scope.cancel()
    return {
        "median_ms": round(statistics.median(times), 2),
        "p90_ms": round(statistics.quantiles(times, n=10)[-1], 2),
        "bodies_stored_or_repeated_per_record": round(bodies, 2),
    }


def main() -> None:
    """Measure and print."""
    ten, hundred = chain(10_000), chain(100_000)
    rows = {
        "reconnect_10_of_10000": meet(ten, without(ten, 10)),
        "identical_10000": meet(ten, ten),
        "reconnect_10_of_100000": meet(hundred, without(hundred, 10)),
        "cold_10000": meet(ten, []),
        "spread_8_tls": trio.run(spread),
    }
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
