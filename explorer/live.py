"""News for viewers: one watcher polls the views for changes, each viewer holds only the latest of each topic.

Nothing queues: a slow viewer is told once, late, and re-reads its page. So memory per viewer is bounded by the
number of topics.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from explorer.db import Db
from spore_borg.errors import BorgError
from spore_borg.limits import VIEWERS_MAX

POLL_S = 0.3
HEARTBEAT_S = 15.0
TOPICS = ("view", "live")


@dataclass(slots=True, eq=False)
class Viewer:
    """One open stream."""

    topics: frozenset[str]
    client: str | None = None  # who, where that is limited
    pending: dict[str, str] = field(default_factory=dict)  # topic → version
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Hub:
    """Who watches, and what was last seen."""

    def __init__(self, home: Path, *, public: bool = False) -> None:
        self.home = home
        self.public = public  # news of what strangers may see only
        self.versions: dict[str, str] = {}
        self.viewers: set[Viewer] = set()
        self.closed = False
        self._db: Db | None = None
        self._seen: tuple[object, ...] = ()

    @property
    def full(self) -> bool:
        """Whether one more viewer would be too many."""
        return len(self.viewers) >= VIEWERS_MAX

    def of_client(self, client: str) -> int:
        """How many streams one client has open."""
        return sum(viewer.client == client for viewer in self.viewers)

    def read(self) -> dict[str, str]:
        """The version of each topic now. Costs one file stat and one pragma while nothing changes."""
        path = self.home / "views.sqlite"
        try:
            stat = path.stat()
            identity: tuple[object, ...] = (stat.st_dev, stat.st_ino)
        except OSError:
            identity = ()
        if self._db is None or identity != self._seen[:2]:
            self.forget()
            self._db, self._seen = Db(self.home, public=self.public), (*identity, None)
        data_version = self._db.connection.execute("PRAGMA data_version").fetchone()[0]
        if self._seen != (*identity, data_version) or not self.versions:
            self._seen = (*identity, data_version)
            row = self._db.one("version")
            live = json.dumps([tuple(r) for r in self._db.all("live")])
            return {
                "view": str(row["value"]) if row is not None else "0",
                "live": hashlib.sha256(live.encode()).hexdigest()[:12],
            }
        return self.versions

    def forget(self) -> None:
        """Close the watcher's own connection."""
        if self._db is not None:
            self._db.close()
        self._db, self._seen = None, ()

    def publish(self, found: dict[str, str]) -> None:
        """Tell every viewer what changed."""
        for topic, version in found.items():
            if self.versions.get(topic) != version:
                self.versions[topic] = version
                for viewer in self.viewers:
                    if topic in viewer.topics:
                        viewer.pending[topic] = version
                        viewer.wake.set()

    async def watch(self) -> None:
        """Poll until cancelled. A damaged or half-built file is looked at again, it never ends the watch."""
        try:
            while not self.closed:
                try:
                    self.publish(dict(self.read()))
                except (sqlite3.Error, BorgError):
                    self.forget()
                await asyncio.sleep(POLL_S)
        finally:
            self.forget()

    def close(self) -> None:
        """End every stream, so that the server can stop at once."""
        self.closed = True
        for viewer in self.viewers:
            viewer.wake.set()

    async def stream(
        self, topics: frozenset[str], last_id: str | None, client: str | None = None
    ) -> AsyncIterator[bytes]:
        """One viewer's events, from now on; at once if ``last_id`` is not the current version."""
        viewer = Viewer(topics=topics, client=client)
        self.viewers.add(viewer)
        try:
            yield b"retry: 3000\n\n"
            version = self.versions.get("view")
            if last_id is not None and version is not None and last_id != version and "view" in topics:
                viewer.pending["view"] = version
                viewer.wake.set()
            while not self.closed:
                try:
                    await asyncio.wait_for(viewer.wake.wait(), HEARTBEAT_S)
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                viewer.wake.clear()
                news, viewer.pending = viewer.pending, {}
                for topic, seen in news.items():
                    mark = f"id: {seen}\n" if topic == "view" else ""
                    data = json.dumps({"topic": topic, "version": seen})
                    yield f"{mark}event: {topic}\ndata: {data}\n\n".encode()
        finally:
            self.viewers.discard(viewer)
