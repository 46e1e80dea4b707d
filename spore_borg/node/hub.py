"""The heart of a node: the log with its one writer, the current view, and who wants to know of news.

A record's way is one line: ``offer`` or ``write`` → log → ``view`` → tables. Nothing else writes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import trio

from spore_borg.home import Home
from spore_borg.node.clock import Clock
from spore_borg.protocol.events import Offered, Status
from spore_borg.records.admit import Stub, check_context
from spore_borg.records.bodies import Body
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record, parse, sign
from spore_borg.records.keys import SigningKey, node_name
from spore_borg.records.reasons import Missing, Refused
from spore_borg.store.blobs import Blobs
from spore_borg.store.log import Log
from spore_borg.store.tables import Tables
from spore_borg.views.reduce import View
from spore_borg.views.rows import tables

log = logging.getLogger("spore_borg")

EVENTS_KEPT = 50
YIELD_EVERY = 32  # records judged between two looks at the other connections
REFRESH_MIN_S = 0.25  # records that arrive together are folded together
REFRESH_SHARE = 4  # folding takes at most 1/(1 + this) of the time
VERDICTS_TOLD_MAX = 20  # in one fold; a newcomer reads a whole history at once
BEHIND_TOLD_S = 60.0  # between two warnings that this machine's clock is behind


class Hub:
    """One node's records, view and news.

    Attributes:
        key: the node's signing key; me: its public half; mesh: the mesh's cid.
        view: the newest fold; its records are a prefix of the log's.
        clock: None until the genesis is here.
    """

    def __init__(self, home: Home, key: SigningKey, mesh: Cid | None) -> None:
        self.home, self.key, self.me, self.mesh = home, key, key.public, mesh
        self.log = Log(home.log)
        self.blobs = Blobs(home.blobs)
        self.blobs.sweep()  # the lock is ours: what lies about, a killed node has left
        self.tables = Tables(home.views)
        self._tables_lock = trio.Lock()  # the file is opened anew when somebody has deleted it
        self._behind_told_s = float("-inf")
        self.records: list[Record] = []
        self.seq: dict[Cid, int] = {}
        self._stubs: dict[Cid, Stub] = {}
        self._own: list[Record] = []
        self.clock: Clock | None = None
        for seq, record in self.log.scan():
            self._learn(record, seq)
        self.view = View(self.records)
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self.on_event: list[Callable[[dict[str, Any]], None]] = []
        self.on_own: Callable[[list[Record]], None] = lambda _records: None  # tells the peers of own records
        self._news = trio.Event()  # records were stored
        self._changed = trio.Event()  # the view was folded anew

    def close(self) -> None:
        """Close the files."""
        self.tables.close()
        self.log.close()

    # ---- taking records in

    def _learn(self, record: Record, seq: int) -> None:
        self.records.append(record)
        self.seq[record.cid] = seq
        self._stubs[record.cid] = Stub(record.author, record.seq, record.epoch)
        if record.author == self.me:
            self._own.append(record)
        if record.kind == "genesis" and self.clock is None and record.cid == (self.mesh or record.cid):
            self.mesh = record.cid
            self.clock = Clock(record.body.time_ms, record.body.epoch_ms)

    def epoch(self) -> int:
        """The local clock's epoch; without a genesis there is none, and nothing counts as future."""
        return self.clock.epoch() if self.clock else 1 << 40

    async def offer(self, raws: list[bytes], source: bytes) -> list[Offered]:
        """Admit records that a peer sent, in one transaction; what is stored is on the disk when it returns."""
        outcomes: list[Offered] = []
        fresh: dict[Cid, Record] = {}
        for raw in raws:
            outcomes.append(self._judge(raw, fresh))
            if len(outcomes) % YIELD_EVERY == 0:
                await trio.lowlevel.checkpoint()  # a signature costs time; the other connections go on
        self._store([record for cid, record in fresh.items() if cid not in self._stubs])
        return outcomes

    def _judge(self, raw: bytes, fresh: dict[Cid, Record]) -> Offered:
        cid = Cid.of(raw)
        if cid in self._stubs or cid in fresh:
            epoch = self._stubs[cid].epoch if cid in self._stubs else fresh[cid].epoch
            return Offered(cid, Status.KNOWN, epoch)

        def lookup(parent: Cid) -> Stub | None:
            here = fresh.get(parent)
            return self._stubs.get(parent) or (Stub(here.author, here.seq, here.epoch) if here else None)

        try:
            record = parse(raw)
            assert self.mesh is not None, "a node that talks has a mesh"
            check_context(record, self.mesh, lookup, self.epoch())
        except Missing as error:
            return Offered(cid, Status.MISSING, parents=tuple(Cid(parent) for parent in error.cids))
        except Refused as error:
            if error.code == "future-epoch":
                self._say_behind(error)
                return Offered(cid, Status.NOT_YET, code=error.code)
            return Offered(cid, Status.REFUSED, code=error.code, offence=True)
        if record.kind == "genesis" and self.clock is None:
            # From here on the future is bounded, also for the records that came in the same batch.
            self.clock = Clock(record.body.time_ms, record.body.epoch_ms)
        fresh[cid] = record
        return Offered(cid, Status.STORED, record.epoch)

    def _say_behind(self, error: Refused) -> None:
        if time.monotonic() - self._behind_told_s < BEHIND_TOLD_S:
            return
        self._behind_told_s = time.monotonic()
        self.event(
            "clock",
            f"a peer's record comes from the future ({error.fields.get('detail')}) and has to wait. "
            "If this goes on, set this machine's clock.",
        )

    def _store(self, records: list[Record]) -> None:
        if not records:
            return
        for record, appended in zip(records, self.log.append(records, _now_ms()), strict=True):
            if appended.new:
                self._learn(record, appended.seq)
        self._news.set()

    # ---- own records

    def write(self, body: Body | Callable[[int], Body]) -> Record:
        """Sign, store and then publish this node's next record. It names everything seen as its past.

        Args:
            body: the body, or what makes it from the record's epoch (which is never before a parent's).
        """
        parents = tuple(self.log.heads())
        last_own = (
            [self._own[-1].epoch] if self._own else []
        )  # with very many heads it may be behind none of them
        seen = [*last_own, *(self._stubs[cid].epoch for cid in parents)]
        epoch = max([self.epoch() if self.clock else 0, *seen])
        said = body(epoch) if callable(body) else body

        def build(last: tuple[int, Cid] | None) -> Record:
            seq, prev = (last[0] + 1, last[1]) if last else (0, None)
            mesh = None if said.KIND == "genesis" else self.mesh
            return sign(self.key, said, mesh=mesh, seq=seq, prev=prev, epoch=epoch, parents=parents)

        record = self.log.append_own(self.me, build, _now_ms())
        self._learn(record, self.log.seq_of(record.cid) or 0)
        self.on_own([record])
        self._news.set()
        return record

    @property
    def has_written(self) -> bool:
        """Whether a record of this node is here."""
        return bool(self._own)

    def own(self, kind: str = "") -> list[Record]:
        """This node's own records of a kind, or of any, oldest first."""
        return [record for record in self._own if record.kind == kind or not kind]

    # ---- the view

    async def refresh_forever(self) -> None:
        """Fold the view anew whenever records came, but never spend most of the time on it."""
        await self._publish_tables()
        while True:
            await self._news.wait()
            await trio.sleep(REFRESH_MIN_S)
            self._news = trio.Event()
            began = time.monotonic()
            await self.refresh()
            await trio.sleep((time.monotonic() - began) * REFRESH_SHARE)

    async def refresh(self) -> None:
        """Fold the records of now, going on from the view of before."""
        fresh = self.records[len(self.view.dag.records) :]
        view = await trio.to_thread.run_sync(View, fresh, self.view)
        before, self.view = self.view, view
        await self._publish_tables()
        self._report(before, view)
        self._changed.set()
        self._changed = trio.Event()

    async def _publish_tables(self) -> None:
        view, seq = self.view, dict(self.seq)  # a thread reads them while records arrive

        def publish() -> None:
            self._there()
            self.tables.publish(tables(view, seq, self.me))

        async with self._tables_lock:
            await trio.to_thread.run_sync(publish)

    async def publish_live(self, values: Mapping[str, Any]) -> None:
        """Write what is happening now (the table ``live``) beside the views."""

        def publish() -> None:
            self._there()
            for key, value in values.items():
                self.tables.set_live(key, value)

        async with self._tables_lock:
            await trio.to_thread.run_sync(publish)

    def _there(self) -> None:
        """Views may be deleted at any time, also while a node runs: then they are made again."""
        if not self.home.views.exists():
            self.tables.close()
            for suffix in ("-wal", "-shm"):
                self.home.views.with_name(self.home.views.name + suffix).unlink(missing_ok=True)
            self.tables = Tables(self.home.views)
            self.tables.publish(tables(self.view, dict(self.seq), self.me))

    async def changed(self) -> None:
        """Wait for the next fold."""
        await self._changed.wait()

    async def until(self, condition: Callable[[View], bool]) -> None:
        """Wait until a condition holds of the view."""
        while not condition(self.view):
            await self.changed()

    def _report(self, before: View, after: View) -> None:
        news = []
        for cid, claim in after.claims.items():
            old = before.claims.get(cid)
            if claim.verdict and (old is None or old.cid != claim.cid or old.verdict is None):
                news.append((cid, claim))
        news.sort(key=lambda item: item[1].round_settled or 0)
        if len(news) > VERDICTS_TOLD_MAX:
            self.event(
                "verdicts", f"{len(news) - VERDICTS_TOLD_MAX} older verdicts came in; `borg log` lists them"
            )
        for cid, claim in news[-VERDICTS_TOLD_MAX:]:
            whose = "own claim" if claim.author == self.me else f"claim of {node_name(claim.author)[:8]}"
            text = f"{claim.verdict}: {whose} {str(cid)[-8:]}. {claim.reason} {after.frontier_why.get(cid, '')}".strip()
            self.event("verdict", text, cid=str(cid), verdict=claim.verdict, metric=claim.body.metric)

    # ---- news

    def event(self, what: str, text: str, **fields: Any) -> None:
        """Tell the faces that something happened: a word, a sentence, and what machines may want."""
        epoch = self.epoch() if self.clock else 0
        item = {"event": what, "epoch": epoch, "time_ms": _now_ms(), "text": text, **fields}
        self.events.append(item)
        log.info("epoch %s %s: %s", epoch, what, text)
        for listener in self.on_event:
            listener(item)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
