"""Many viewers while records arrive: 100 event streams and some readers, 50 records a second, memory watched.

    python -m tests.pages.soak --duration 600 --viewers 100 --readers 10 --rate 50

Prints what the explorer's process holds, every few seconds. A *viewer* keeps ``/events`` open as the page's script
does; a *reader* is a viewer that also reads its page again after news, as a browser does. Records are written as a node
writes them: a transaction each, in write-ahead mode, beside the explorer that reads. The memory that counts is
*anonymous* (VmRSS without mapped files): SQLite maps the growing database, and that is the kernel's to take back.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from spore_borg.records.cid import Cid
from tests.pages import fixtures
from tests.pages.maker import Maker

PATHS = ("/", "/records", "/verify", "/frontier", "/dag")
FIRST_S = 0.4  # the script waits so long after news before it reads


@dataclass
class Result:
    """What was seen."""

    samples: list[tuple[float, int, int]] = field(default_factory=list)  # s, anonymous KiB, resident KiB
    records: int = 0
    events: Counter[int] = field(default_factory=Counter)  # by viewer
    reads: int = 0
    errors: list[str] = field(default_factory=list)
    cpu_s: float = 0.0
    fresh_kib: int = 0  # anonymous memory of a new explorer that has read the same pages of the same records
    late_ms: list[float] = field(default_factory=list)

    def growth_kib(self) -> tuple[int, int]:
        """Anonymous memory: the median of the second quarter, and of the last."""
        held = [sample[1] for sample in self.samples]
        quarter = max(1, len(held) // 4)
        early, late = sorted(held[quarter : 2 * quarter] or held), sorted(held[-quarter:])
        return early[len(early) // 2], late[len(late) // 2]


class Growing(Maker):
    """Adds records to a home directory that others read meanwhile."""

    def __post_init__(self) -> None:
        """Open what is there."""
        self.views = sqlite3.connect(self.home / "views.sqlite", isolation_level=None, timeout=10)
        self.log = sqlite3.connect(self.home / "log.sqlite", isolation_level=None, timeout=10)
        for db in (self.views, self.log):
            db.execute("PRAGMA synchronous=NORMAL")
        self.seq = self.views.execute("SELECT max(seq) FROM record").fetchone()[0]
        self.author = self.rng.randbytes(32)
        self.tasks = [row[0] for row in self.views.execute("SELECT cid FROM task ORDER BY cid")]

    def one(self) -> None:
        """One experiment, as one transaction in each database."""
        for db in (self.log, self.views):
            db.execute("BEGIN IMMEDIATE")
        task = Cid.parse(self.tasks[self.seq % len(self.tasks)])
        self.experiment(
            self.author, 60 + self.seq // 400, task, fixtures.CLASSES[0], title=f"run {self.seq}",
            metric=2_100_000_000 + self.rng.randrange(10**8), verdict="unverified", stage="received",
        )  # fmt: skip
        self.meta(version=self.seq, records=self.seq)
        for db in (self.log, self.views):
            db.execute("COMMIT")

    def close(self) -> None:
        """Close both databases."""
        self.views.close()
        self.log.close()


def memory_kib(pid: int) -> tuple[int, int]:
    """``(anonymous, resident)`` memory of a process."""
    found = dict.fromkeys(("RssAnon", "VmRSS"), 0)
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0])
    return found["RssAnon"], found["VmRSS"]


def cpu_s(pid: int) -> float:
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def get(port: int, path: str, tag: str) -> tuple[int, str]:
    """One page as a browser reads it again: ``(status, its ETag)``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    known = f"If-None-Match: {tag}\r\n" if tag else ""
    head = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n{known}Connection: close\r\n\r\n"
    )
    writer.write(head.encode())
    try:
        answer = await asyncio.wait_for(reader.read(-1), 30)
    finally:
        writer.close()
    top = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    tags = [line.partition(": ")[2] for line in top if line.lower().startswith("etag:")]
    return int(top[0].split()[1]), tags[0] if tags else ""


async def view(port: int, number: int, reads: bool, result: Result, until_s: float) -> None:
    """One viewer, until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /events?topics=view,live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    tag, path, seen = "", PATHS[number % len(PATHS)], 0
    try:
        while time.monotonic() < until_s:
            try:
                line = await asyncio.wait_for(reader.readline(), max(0.05, until_s - time.monotonic()))
            except TimeoutError:
                break
            if not line:
                result.errors.append(f"viewer {number}: the stream ended")
                break
            if line.startswith(b"id: "):
                version = int(line[4:])
                if version <= seen:
                    result.errors.append(f"viewer {number}: version {version} after {seen}")
                seen = version
                result.events[number] += 1
                if reads:
                    await asyncio.sleep(FIRST_S)
                    began = time.monotonic()
                    status, tag = await get(port, path, tag)
                    result.late_ms.append(1e3 * (time.monotonic() - began))
                    result.reads += 1
                    if status not in {200, 304}:
                        result.errors.append(f"{path}: {status}")
    finally:
        writer.close()


async def write(home: Path, rate: float, result: Result, until_s: float) -> None:
    """Records at a steady rate."""
    grow = Growing(home, random.Random(9))
    began, count = time.monotonic(), 0
    try:
        while (now := time.monotonic()) < until_s:
            for _ in range(min(50, int((now - began) * rate) - count)):
                grow.one()
                count += 1
            await asyncio.sleep(0.02)
    finally:
        grow.close()
        result.records = count


async def watch(pid: int, every_s: float, result: Result, until_s: float) -> None:
    """Memory at intervals."""
    began = time.monotonic()
    while time.monotonic() < until_s:
        await asyncio.sleep(every_s)
        anonymous, resident = memory_kib(pid)
        result.samples.append((time.monotonic() - began, anonymous, resident))
        told = sum(result.events.values())
        print(
            f"{result.samples[-1][0]:6.0f} s  anonymous {anonymous / 1024:.1f} MiB  resident {resident / 1024:.1f} MiB"
            f"  {told:,} events, {result.reads:,} pages read",
            flush=True,
        )


async def run(home: Path, pid: int, port: int, options: argparse.Namespace) -> Result:
    """Everything at once."""
    result, until_s = Result(), time.monotonic() + options.duration
    every_s = max(1.0, options.duration / 40)
    async with asyncio.TaskGroup() as group:
        for number in range(options.viewers):
            group.create_task(view(port, number, number < options.readers, result, until_s))
        group.create_task(write(home, options.rate, result, until_s))
        group.create_task(watch(pid, every_s, result, until_s))
    return result


def soak(home: Path, options: argparse.Namespace) -> Result:
    """Make a mesh, serve it, and let them come."""
    fixtures.mesh(home, options.records)
    command = [sys.executable, "-m", "explorer", "--home", str(home), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rsplit(":", 1)[1].strip().strip("/"))
        result = asyncio.run(run(home, process.pid, port, options))
        result.cpu_s = cpu_s(process.pid)
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
    result.fresh_kib = fresh(home)
    return result


def fresh(home: Path) -> int:
    """What an explorer holds that has just begun and read every page a few times: what the records themselves cost."""
    command = [sys.executable, "-m", "explorer", "--home", str(home), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rsplit(":", 1)[1].strip().strip("/"))
        for number in range(3):
            for path in PATHS:
                asyncio.run(get(port, path + ("?" if path == "/" else "") * bool(number), ""))
        return memory_kib(process.pid)[0]
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Viewers and records for a while; see the module.")
    parser.add_argument("--duration", type=float, default=600, help="seconds (600)")
    parser.add_argument("--viewers", type=int, default=100, help="open event streams (100)")
    parser.add_argument("--readers", type=int, default=10, help="of them, such as read their page again (10)")
    parser.add_argument("--rate", type=float, default=50, help="records a second (50)")
    parser.add_argument("--records", type=int, default=2_000, help="records before it begins (2000)")
    return parser.parse_args(argv)


def said(result: Result, options: argparse.Namespace) -> str:
    """The result in a few lines."""
    early, late = result.growth_kib()
    times = sorted(result.late_ms) or [0.0]
    return (
        f"{result.records:,} records in {options.duration:.0f} s to {len(result.events)} of {options.viewers} viewers: "
        f"{sum(result.events.values()):,} events, {result.reads:,} pages read "
        f"(median {times[len(times) // 2]:.0f} ms, 99 % {times[len(times) * 99 // 100]:.0f} ms), "
        f"{result.cpu_s:.0f} s of CPU; "
        f"anonymous memory {early / 1024:.1f} MiB in the second quarter, {late / 1024:.1f} MiB in the last, "
        f"{result.fresh_kib / 1024:.1f} MiB in a new process with the same records; "
        f"{len(result.errors)} errors"
    )


def main() -> None:
    """Soak."""
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        result = soak(Path(folder) / "home", options)
    print(said(result, options))
    print("\n".join(result.errors[:20]))
    sys.exit(bool(result.errors))


if __name__ == "__main__":
    main()
