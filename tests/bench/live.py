"""What verification costs in a live mesh: three nodes on loopback, task pico, two minutes, read from their records.

Two research and verify, one only verifies. Cost of a claim: CPU of everybody's evidence on it over
CPU of the experiment.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import IO

from spore_borg.home import Home
from spore_borg.records.cid import Cid
from spore_borg.store.log import Log
from spore_borg.views.reduce import View
from tests.bench._rows import emit

SECONDS = int(os.environ.get("SPORE_BORG_BENCH_LIVE_S", "120"))
EPOCH_MS = 4_000
TICKET_S = 60.0
BORG = (sys.executable, "-c", "from spore_borg.cli import main; main()")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Running:
    """One `borg run` and the events that it prints."""

    def __init__(self, home: Path, seconds: float, *options: str) -> None:
        command = [
            *BORG, "--home", str(home), "run", "--json", "--no-explorer", "--epoch-ms", str(EPOCH_MS), "--seconds",
            f"{seconds:.0f}", "--listen", f"127.0.0.1:{free_port()}", *options,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.tickets: queue.Queue[str] = queue.Queue()
        assert self.process.stdout is not None
        threading.Thread(target=self._listen, args=(self.process.stdout,), daemon=True).start()

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            if line.startswith("{") and (ticket := json.loads(line).get("ticket")):
                self.tickets.put(ticket)

    def stop(self) -> None:
        """End it, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def mesh(room: Path) -> None:
    """Run the three nodes to their end."""
    end_s = time.monotonic() + SECONDS
    nodes = [Running(room / "a", SECONDS, "--task", "pico")]
    try:
        for name, more in (("b", ["--verify-only"]), ("c", ["--task", "pico"])):
            ticket = nodes[0].tickets.get(timeout=TICKET_S)
            nodes.append(Running(room / name, end_s - time.monotonic(), "--join", ticket, *more))
        while any(node.process.poll() is None for node in nodes) and time.monotonic() < end_s + 20:
            time.sleep(0.5)
    finally:
        for node in nodes:
            node.stop()


def main() -> None:
    """Run it and read the log of the first node."""
    with tempfile.TemporaryDirectory() as directory:
        room = Path(directory)
        mesh(room)
        with Log.open_readonly(Home(room / "a").log) as log:
            records = [record for _, record in log.scan()]
    evidence: dict[Cid, int] = defaultdict(int)
    announced = {record.cid: record.body.target for record in records if record.kind == "announce"}
    for record in records:
        if record.kind == "attest_reveal":
            evidence[announced.get(record.body.target, record.body.target)] += record.body.cpu_ms
    settled = {cid: claim for cid, claim in View(records).claims.items() if claim.verdict is not None}
    checked = {
        cid: claim.body.cpu_ms for cid, claim in settled.items() if cid in evidence and claim.body.cpu_ms > 0
    }
    verdicts = Counter(claim.verdict for claim in settled.values())
    runs = sum(record.kind == "experiment" for record in records)
    note = f"{SECONDS} s, epochs of {EPOCH_MS / 1e3:g} s, {runs} experiments, {len(records)} records; {dict(verdicts)}"
    print(note)
    emit("live_verdicts", [len(settled)], note)
    if settled:
        emit("live_accepted", [verdicts["accepted"] / len(settled)])
        emit(
            "live_rounds",
            [c.round_settled - c.round_ack for c in settled.values() if c.round_settled is not None],
        )
    if checked:
        total = sum(evidence[cid] for cid in checked) / sum(checked.values())
        emit(
            "live_cost",
            [evidence[cid] / spent for cid, spent in checked.items()],
            f"of all together: {total:.2f}; experiment {statistics.median(checked.values()):.0f} CPU-ms",
        )


if __name__ == "__main__":
    main()
