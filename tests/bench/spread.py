"""How soon a new experiment is on the disk of all of eight nodes: fully connected, loopback, one process.

From before signing to the last node's flush. Bodies: how many copies crossed a wire for each of the seven needed.
"""

from __future__ import annotations

import random
import time

import trio

from spore_borg.protocol.messages import Records
from tests.bench._nodes import Node, until
from tests.bench._rows import emit
from tests.bench._workload import experiment, mesh

NODES = 8
WARM, MEASURED = 30, 60
PAUSE_S = 0.03
LIMIT_S = 20.0


async def _spread(nodes: list[Node]) -> tuple[list[float], list[float]]:
    rng = random.Random(3)
    times: list[float] = []
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.peers.run)
        for number, node in enumerate(nodes):
            for other in nodes[number + 1 :]:
                node.dial(other)
        await until(lambda: all(len(node.peers.core.ready()) == NODES - 1 for node in nodes), LIMIT_S)
        await trio.sleep(0.5)
        for number in range(WARM + MEASURED):
            if number == WARM:
                for node in nodes:
                    node.wire.sent.clear()
            author = nodes[number % NODES]
            others = [node for node in nodes if node is not author]
            began_s = time.perf_counter()
            cid = author.hub.write(experiment(rng)).cid
            await until(lambda cid=cid, others=others: all(cid in node.stored for node in others), LIMIT_S)  # type: ignore[misc]
            if number >= WARM:
                times.append(1e3 * (max(node.stored[cid] for node in others) - began_s))
            await trio.sleep(PAUSE_S)
        bodies = sum(len(message.raws) for node in nodes for message in node.wire.messages(Records))
        nursery.cancel_scope.cancel()
    return times, [bodies / (MEASURED * (NODES - 1))]


def main() -> None:
    """One mesh, many records."""
    records, _ = mesh(2)
    nodes = [Node(number, records, records[0].cid, None) for number in range(NODES)]
    try:
        times, bodies = trio.run(_spread, nodes)
    finally:
        for node in nodes:
            node.close()
    emit("spread_ms", times)
    emit("spread_bodies", bodies, f"{MEASURED} records")


if __name__ == "__main__":
    main()
