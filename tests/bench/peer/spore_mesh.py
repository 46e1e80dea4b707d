"""Spore Mesh through its own classes, on the workload of the scripts beside: ``python spore_mesh.py WHAT``.

Runs in an environment of its own, in which sporemesh is installed and spore_borg is not. Loopback only: a node is given
an explicit peer or none, so that it never dials the bootstrap host that it carries.
"""

from __future__ import annotations

import asyncio
import difflib
import gzip
import json
import random
import re
import socket
import struct
import sys
import tempfile
import time
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import spore.gossip
from nacl.signing import SigningKey
from spore.node import NodeConfig, SporeNode
from spore.record import ExperimentRecord, Status, generate_keypair
from spore.wire import MessageType

from tests.bench._rows import emit

SEED = 20_260
COUNT = 10_000
NODES = 8
WARM, MEASURED = 30, 60
PAUSE_S = 0.03
VIEW = 5_000  # experiments in the first view
FRONTIER_LIMIT_S = 60.0
TCP_INFO_AT = 120  # see tests/bench/_nodes.py
SCRIPT = resources.files("spore.workspace").joinpath("train.py").read_text(encoding="utf-8").splitlines()
SETTING = re.compile(r"([A-Z_]{4,}) = [0-9.]+")


def room() -> str | None:
    """As in tests/bench/_nodes.py."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@cache
def change(number: int) -> tuple[str, str]:
    """One setting of the training script that it ships, halved: its name, and the diff that a record carries."""
    places = [(at, found) for at, line in enumerate(SCRIPT) if (found := SETTING.match(line))]
    at, found = places[number % len(places)]
    after = [*SCRIPT[:at], f"{found[1]} = {(1 + number) / 64}", *SCRIPT[at + 1 :]]
    return found[1], "\n".join(difflib.unified_diff(SCRIPT, after, "train.py", "train.py", lineterm=""))


def record(
    rng: random.Random, key: SigningKey, node_id: str, parent: ExperimentRecord | None
) -> ExperimentRecord:
    """What its loop publishes: the diff of one setting, description, hypothesis, results."""
    name, diff = change(rng.randrange(24))
    made = ExperimentRecord(
        parent=parent and parent.id, depth=0 if parent is None else parent.depth + 1, code_cid=rng.randbytes(32).hex(),
        diff=diff, dataset_cid=rng.randbytes(32).hex(), prepare_cid=rng.randbytes(32).hex(), time_budget=300,
        val_bpb=rng.uniform(1.0, 1.8), peak_vram_mb=1234.5, num_steps=300, num_params=rng.randint(10**5, 10**6),
        status=rng.choice((Status.KEEP, Status.DISCARD)), description=f"halve {name}",
        hypothesis="a wider middle gave more than a longer schedule", agent_model="llama-3.3-70b", gpu_model="CPU",
        cuda_version="12.4", torch_version="2.9.0", node_id=node_id, timestamp=1_760_000_000 + rng.randint(0, 10**6),
    )  # fmt: skip
    made.sign(key)
    return made


def records(count: int) -> list[ExperimentRecord]:
    """Experiments of four authors, each on a recent one, parents first."""
    rng = random.Random(SEED)
    authors = [generate_keypair() for _ in range(4)]
    made: list[ExperimentRecord] = []
    for number in range(count):
        parent = made[-rng.randint(1, min(20, number))] if number else None
        made.append(record(rng, *authors[number % 4], parent))
    return made


def message(one: ExperimentRecord) -> bytes:
    """The body of the frame in which it travels."""
    return spore.gossip.encode_message(MessageType.EXPERIMENT, json.loads(one.to_json()))[4:]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Home:
    """A node with a directory of its own."""

    def __init__(self, where: str | None, held: list[ExperimentRecord] = (), peer: list[str] = ()) -> None:  # type: ignore[assignment]
        self.directory = tempfile.TemporaryDirectory(dir=where)
        self.port = free_port()
        self.node = SporeNode(NodeConfig("127.0.0.1", self.port, list(peer), self.directory.name))
        self.received = 0
        self.stored: dict[str, float] = {}
        self.node.add_listener(lambda one: self.stored.setdefault(one.id, time.perf_counter()))
        handle = self.node.gossip._handle_message

        async def counted(addr: str, msg: dict[str, Any]) -> None:
            self.received += msg.get("type") == MessageType.EXPERIMENT
            await handle(addr, msg)

        self.node.gossip._handle_message = counted  # type: ignore[method-assign]
        for one in held:
            self.node.graph.insert(one)

    def bytes(self) -> int:
        """Bytes on its connections, both ways."""
        total = 0
        for _, writer in self.node.gossip.peers.values():
            raw = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, 11, 256)
            total += sum(struct.unpack_from("<QQ", raw, TCP_INFO_AT))
        return total


async def until(condition: Any, limit_s: float) -> None:
    """Wait for something."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - as in tests/bench/_nodes.py
            await asyncio.sleep(0.003)


async def ingest() -> None:
    """Its handler of a received message, into a new home on disk."""
    made = [message(one) for one in records(2_000)]
    walls, cpus = [], []
    for _ in range(3):
        home = Home(None)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        for body in made:
            await home.node.gossip._handle_message("127.0.0.1:1", json.loads(body))
        walls.append(len(made) / (time.perf_counter() - wall_s))
        cpus.append(len(made) / (time.process_time() - cpu_s))
        assert home.node.graph.count() == len(made)
        await home.node.stop()
        home.directory.cleanup()
    emit("ingest_experiments_wall", walls, f"{sum(map(len, made)) / len(made):.0f} B a record")
    emit("ingest_experiments_cpu", cpus)


async def meet(
    held: list[list[ExperimentRecord]], start: list[ExperimentRecord], arrive: int
) -> tuple[int, float, int]:
    """Bytes, CPU and records gained when a node with ``start`` dials nodes that hold ``held``."""
    servers = [Home(room(), one) for one in held]
    for server in servers:
        await server.node.start(skip_peer=True)
    client = Home(room(), start, [f"127.0.0.1:{server.port}" for server in servers])
    before = client.node.graph.count()
    cpu_s = time.process_time()
    await client.node.start()
    await until(lambda: client.received >= arrive, 170)
    cpu_s = time.process_time() - cpu_s
    size, gained = client.bytes(), client.node.graph.count() - before
    for home in (client, *servers):
        await home.node.stop()
        home.directory.cleanup()
    return size, cpu_s, gained


async def sync() -> None:
    """Cold sync, ten missing on reconnect, restart of one of three."""
    made = records(COUNT)
    size, cpu_s, _ = await meet([made], [], COUNT)
    emit(
        "sync_experiments_bytes",
        [size / 1e6],
        f"{sum(len(message(one)) for one in made) / COUNT:.0f} B a record",
    )
    emit("sync_experiments_cpu", [cpu_s])
    parents = {one.parent for one in made}
    leaves = [one for one in made[:-100] if one.id not in parents][:10]
    lacking = [one for one in made if one not in leaves]
    size, cpu_s, gained = await meet([made], lacking, COUNT)
    emit("missing_bytes", [size / 1e3])
    emit("missing_cpu", [cpu_s])
    emit("missing_recovered", [gained])
    size, cpu_s, _ = await meet([made, made], made, 2 * COUNT)
    emit("restart_bytes", [size / 1e3])
    emit("restart_cpu", [cpu_s])


async def spread() -> None:
    """Eight nodes, fully connected, on disk."""
    homes = [Home(None) for _ in range(NODES)]
    for home in homes:
        await home.node.start(skip_peer=True)
    for number, home in enumerate(homes):
        for other in homes[number + 1 :]:
            await home.node.gossip.connect_to_peer("127.0.0.1", other.port)
    await until(lambda: all(len(home.node.gossip.peers) == NODES - 1 for home in homes), 20)
    rng, times = random.Random(3), []
    for number in range(WARM + MEASURED):
        if number == WARM:
            for home in homes:
                home.received = 0
        author = homes[number % NODES]
        one = record(rng, author.node.signing_key, author.node.node_id, None)
        one.signature = one.id = ""
        began_s = time.perf_counter()
        await author.node.publish_experiment(one)
        await until(lambda: all(one.id in home.stored for home in homes), 20)  # noqa: B023 - awaited at once
        if number >= WARM:
            times.append(1e3 * (max(home.stored[one.id] for home in homes) - began_s))
        await asyncio.sleep(PAUSE_S)
    bodies = sum(home.received for home in homes)
    emit("spread_ms", times)
    emit("spread_bodies", [bodies / (MEASURED * (NODES - 1))], f"{MEASURED} records")
    for home in homes:
        await home.node.stop()
        home.directory.cleanup()


async def pages() -> None:
    """The frontier, at the largest size (doubling from 1,250) whose query ends within a minute; the first view."""
    made = records(COUNT)
    size, spent, frontier_note = 1_250, 0.0, ""
    while True:
        home = Home(room(), made[:size] if size <= COUNT else records(size))
        cpu_s = time.process_time()
        home.node.graph.frontier()
        cpu_s = time.process_time() - cpu_s
        frontier_note += f"{size:,}: {cpu_s:.2f} CPU-s; "
        if size == VIEW:
            await first_view(home)
        await home.node.stop()
        home.directory.cleanup()
        spent = cpu_s
        if 5 * spent > FRONTIER_LIMIT_S:
            break
        size *= 2
    emit("frontier_ms", [1e3 * spent], f"at {size:,} experiments ({frontier_note.rstrip('; ')})")


async def first_view(home: Home) -> None:
    """What its page fetches before it stands: the shell and four answers."""
    from spore.explorer.server import create_app

    steps = 0

    def tick() -> int:
        nonlocal steps
        steps += 1_000
        return 0

    home.node.graph.conn.set_progress_handler(tick, 1_000)
    app = create_app(home.node)
    ends = {route.path: route.endpoint for route in app.routes if hasattr(route, "endpoint")}
    cpu_s = time.process_time()
    raw, packed = 0, 0
    for path in ("/", "/api/stat", "/api/graph", "/api/frontier", "/api/leaderboard"):
        answer = await ends[path]()
        body = answer.body if hasattr(answer, "body") else json.dumps(answer, separators=(",", ":")).encode()
        raw += len(body)
        packed += len(gzip.compress(body, 6))
    cpu_s = time.process_time() - cpu_s
    note = f"at {VIEW:,} experiments, as it sends them; {packed / 1e3:,.0f} KB if compressed; without scripts"
    emit("overview_kb", [raw / 1e3], note)
    emit("overview_steps", [steps / 1e3], f"at {VIEW:,} experiments")
    emit("overview_ms", [1e3 * cpu_s], f"at {VIEW:,} experiments")


if __name__ == "__main__":
    asyncio.run({"ingest": ingest, "sync": sync, "spread": spread, "pages": pages}[sys.argv[1]]())
