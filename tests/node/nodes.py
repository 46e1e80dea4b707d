"""Nodes as processes, for tests: start one, wait for its events, kill it, see what it left."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CODE = "from spore_borg.cli import main; main()"
PATIENCE_S = 240.0  # for one event, on a machine that is busy with other things
GONE_S = 30.0
Event = dict[str, Any]


class NodeProcess:
    """``borg --home HOME run --json …`` and the events that it prints."""

    def __init__(self, home: Path, *options: object) -> None:
        self.home = home
        self.seen: list[Event] = []
        self._news: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._errors = (home.parent / f"{home.name}.stderr").open("ab")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SPORE_BORG_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, "--home", str(home), "run", "--json", *map(str, options)],
            stdout=subprocess.PIPE, stderr=self._errors, cwd=ROOT, env=environment, start_new_session=True,
        )  # fmt: skip
        import threading

        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                item = json.loads(line)
            except ValueError:  # an error at the end is one JSON value on several lines
                continue
            if isinstance(item, dict) and "event" in item:
                self._news.put(item)
        self._news.put(None)

    def wait(
        self, what: str, fits: Callable[[Event], bool] = lambda _: True, limit_s: float = PATIENCE_S
    ) -> Event:
        """The next event of this name that fits; those before it are passed over."""
        end_s = time.monotonic() + limit_s
        while True:
            try:
                item = self._news.get(timeout=max(0.01, end_s - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no event {what!r} in {limit_s} s; {self.last_words()}") from None
            if item is None:
                raise AssertionError(f"ended without event {what!r}; {self.last_words()}")
            self.seen.append(item)
            if item["event"] == what and fits(item):
                return item

    def last_words(self) -> str:
        errors = Path(self._errors.name).read_text(errors="replace")[-2_000:]
        return f"the last events were {[item['text'][:100] for item in self.seen[-8:]]}; stderr: {errors}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self) -> list[int]:
        """Process ids of everything that this node has started and that runs."""
        return [pid for pid, parent in _parents().items() if parent == self.pid]

    def interrupt(self, limit_s: float = GONE_S) -> int:
        """Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.ended(limit_s)

    def kill(self) -> None:
        """As the out-of-memory killer does it."""
        self.process.kill()
        self.ended(GONE_S)

    def ended(self, limit_s: float) -> int:
        status = self.process.wait(limit_s)
        self._reader.join(limit_s)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()
        return status

    def close(self) -> None:
        """End it in any case."""
        if self.process.poll() is None:
            self.kill()


def _parents() -> dict[int, int]:
    """Every running process and its parent; a dead one that nobody has fetched does not run."""
    found = {}
    if shutil.which("ps") is None:  # a container without procps
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                _, _, rest = path.read_text().rpartition(")")
            except OSError:
                continue
            state, parent = rest.split()[:2]
            if state != "Z":
                found[int(path.parent.name)] = int(parent)
        return found
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        pid, parent, state = line.split()[:3]
        if not state.startswith("Z"):
            found[int(pid)] = int(parent)
    return found


def all_gone(pids: list[int], limit_s: float = GONE_S) -> bool:
    """Wait until none of these processes runs any more."""
    end_s = time.monotonic() + limit_s
    while left := set(pids) & set(_parents()):
        if time.monotonic() > end_s:
            print("still there:", left)
            return False
        time.sleep(0.1)
    return True


def eventually(condition: Callable[[], bool], limit_s: float = GONE_S) -> bool:
    """Whether a condition without an event comes true in time."""
    end_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.1)
    return True
