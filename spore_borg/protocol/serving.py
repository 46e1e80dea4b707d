"""What one peer has asked of us: answered within a window of unread bytes and a budget of bytes a second."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from spore_borg.limits import RECORDS_FRAME_BYTES_MAX
from spore_borg.protocol.events import RecordIndex
from spore_borg.protocol.messages import Records, Want
from spore_borg.records.cid import Cid

REQUESTS_QUEUED_MAX = 4  # requests of one peer that wait; a further one is answered "not now"
WINDOW_BYTES = 1 << 20  # record bytes on their way to a peer that it has not taken yet
SERVE_BYTES_PER_S = 16 << 20  # what one peer may make us read and send
SERVE_BURST_BYTES = 16 << 20
ASK_COST_BYTES = 128  # charged for each id asked for, present or not


@dataclass(slots=True)
class Budget:
    """A token bucket in bytes."""

    rate: float = SERVE_BYTES_PER_S
    burst: float = SERVE_BURST_BYTES
    level: float = SERVE_BURST_BYTES
    at_s: float = 0.0

    def refill(self, now_s: float) -> bool:
        """Add what time has brought; True when something may be spent."""
        self.level = min(self.burst, self.level + max(0.0, now_s - self.at_s) * self.rate)
        self.at_s = now_s
        return self.level > 0

    def spend(self, size_bytes: float) -> None:
        """Take bytes; the level may fall below zero once, then the peer waits."""
        self.level -= size_bytes


@dataclass(slots=True)
class _Job:
    number: int
    cids: deque[Cid]


@dataclass(slots=True)
class Serving:
    """Answers to one peer's Wants, paced."""

    budget: Budget = field(default_factory=Budget)
    unread_bytes: int = 0
    _jobs: deque[_Job] = field(default_factory=deque)

    @property
    def idle(self) -> bool:
        """Nothing waits for this peer."""
        return not self._jobs

    def ask(self, want: Want, index: RecordIndex) -> Records | None:
        """Queue a request, parents before children; an answer at once when too many wait already."""
        if len(self._jobs) >= REQUESTS_QUEUED_MAX:
            return Records(want.number, last=True, raws=())
        self.budget.spend(ASK_COST_BYTES * len(want.cids))
        places = {cid: index.seq_of(cid) for cid in want.cids}
        here = sorted((cid for cid in want.cids if places[cid] is not None), key=lambda cid: places[cid] or 0)
        self._jobs.append(_Job(want.number, deque(here)))
        return None

    def sent(self, size_bytes: int) -> None:
        """Bytes have left for the peer."""
        self.unread_bytes = max(0, self.unread_bytes - size_bytes)

    def pump(self, index: RecordIndex, now_s: float) -> list[Records]:
        """The answers that may be sent now."""
        found: list[Records] = []
        while self._jobs and self.unread_bytes < WINDOW_BYTES and self.budget.refill(now_s):
            job = self._jobs[0]
            raws: list[bytes] = []
            size = 0
            while job.cids and size < RECORDS_FRAME_BYTES_MAX:
                raw = index.raw(job.cids[0])
                if raw is not None and size and size + len(raw) > RECORDS_FRAME_BYTES_MAX:
                    break
                job.cids.popleft()
                if raw is not None:
                    raws.append(raw)
                    size += len(raw)
            self.unread_bytes += size
            self.budget.spend(size)
            found.append(Records(job.number, last=not job.cids, raws=tuple(raws)))
            if not job.cids:
                self._jobs.popleft()
        return found
