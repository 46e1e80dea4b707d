"""How fast a node takes in records on disk: the path of records that a peer sends, ``Hub.offer``.

Parse (canonical form, shape, signature), admission, one transaction and one flush a batch. Nothing is skipped.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import trio

from spore_borg.home import Home
from spore_borg.node.hub import Hub
from spore_borg.protocol.events import Status
from spore_borg.records.cid import Cid
from spore_borg.records.keys import SigningKey
from tests.bench._rows import emit
from tests.bench._workload import MIX, mesh

BATCH = 256
REPETITIONS = 5


def once(raws: list[bytes], genesis: Cid) -> tuple[float, float]:
    """Records per second of wall time and of CPU time, into a new home on disk."""
    with tempfile.TemporaryDirectory() as directory:
        hub = Hub(Home(Path(directory)).create(), SigningKey(b"k" * 32), genesis)

        async def take() -> None:
            for start in range(0, len(raws), BATCH):
                outcomes = await hub.offer(raws[start : start + BATCH], b"")
                assert all(outcome.status is Status.STORED for outcome in outcomes), outcomes[0]

        wall_s, cpu_s = time.perf_counter(), time.process_time()
        trio.run(take)
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        assert hub.log.count() == len(raws)
        hub.close()
    return len(raws) / wall_s, len(raws) / cpu_s


def main() -> None:
    """Both workloads."""
    for name, count, kinds in (("experiments", 2_000, ("experiment",)), ("mix", 10_000, MIX)):
        records, _ = mesh(count, kinds)
        raws = [record.raw for record in records]
        found = [once(raws, records[0].cid) for _ in range(REPETITIONS)]
        note = f"{sum(map(len, raws)) / count:.0f} B a record"
        emit(f"ingest_{name}_wall", [wall for wall, _ in found], note)
        emit(f"ingest_{name}_cpu", [cpu for _, cpu in found], note)


if __name__ == "__main__":
    main()
