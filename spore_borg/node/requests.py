"""What a person asked to be absorbed or merged: small files in ``work/absorb``, so that nothing asked for is lost.

The command line writes them, a running node takes them up, oldest first, and writes into them how far it is; without a
node they wait for the next ``borg run``.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from spore_borg.errors import UsageError
from spore_borg.home import Home

KEPT_MAX = 200  # requests that are over; older ones are forgotten
WAITING_MAX = 256
SOURCE_CHARS_MAX = 2_000
OVER = frozenset(("published", "refused", "failed"))


@dataclass(frozen=True, slots=True)
class Request:
    """One wish.

    Attributes:
        stage: queued, fetching, converting, measuring, published, refused (the mesh has it) or failed.
        text: one sentence about the stage; part: how much of the stage is done, 0…1.
        tries: how often this node has begun it; result: what the conversion gave, once it is published.
        inputs: of a wish to merge, the cids of what is merged; merging: by which rule; base: the cid of their common
            base. Then ``source`` is only words.
    """

    id: str
    source: str
    steps: int
    rule: str
    licence_ok: bool = False
    stage: str = "queued"
    text: str = "Waits for a running node."
    part: float = 0.0
    tries: int = 0
    cid: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    merging: str = ""
    base: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.stage in OVER


class Requests:
    """The directory of one node's requests."""

    def __init__(self, home: Home) -> None:
        self._directory = home.work / "absorb"

    def add(self, source: str, *, steps: int, rule: str, licence_ok: bool) -> Request:
        """Write a new request durably.

        Raises:
            UsageError: the source is no text of a sane length, or very many requests wait already.
        """
        if not source.strip() or len(source) > SOURCE_CHARS_MAX or not source.isprintable():
            raise UsageError(detail="A source is a text such as file:PATH, hf:ORG/MODEL or pypi:NAME.")
        return self.put(Request(self._name(), source, steps, rule, licence_ok))

    def add_merge(self, inputs: Sequence[str], merging: str, base: str | None = None) -> Request:
        """Write a wish to merge durably. Raises UsageError as ``add`` does."""
        inputs = sorted(inputs)
        words = "merge of " + ", ".join(f"…{cid[-8:]}" for cid in inputs)
        return self.put(Request(self._name(), words, 0, "", inputs=inputs, merging=merging, base=base))

    def _name(self) -> str:
        """A name for one more request; those of one node ascend with time."""
        if sum(not request.over for request in self.all()) >= WAITING_MAX:
            raise UsageError(
                detail=f"{WAITING_MAX} models wait to be absorbed already. Start `borg run` first."
            )
        return f"{time.time_ns():020d}-{secrets.token_hex(4)}"

    def put(self, request: Request) -> Request:
        """Write a request as it stands now; whole or as it was."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(request.id)
        draft = path.with_suffix(".new")
        with draft.open("w", encoding="ascii") as file:
            json.dump(asdict(request), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        return request

    def get(self, name: str) -> Request | None:
        """One request; None if it is gone or damaged."""
        return _read(self._path(name))

    def all(self) -> list[Request]:
        """All requests, oldest first; what cannot be read is passed over."""
        found = (_read(path) for path in sorted(self._directory.glob("*.json")))
        return [request for request in found if request is not None]

    def next(self) -> Request | None:
        """The oldest one that is not over. One that a stopped node had begun counts as queued."""
        return next((request for request in self.all() if not request.over), None)

    def move(self, request: Request, stage: str, text: str, **more: Any) -> Request:
        """The request at another stage, written down."""
        return self.put(replace(request, stage=stage, text=text, **{"part": 0.0, **more}))

    def tidy(self) -> None:
        """Forget the oldest of those that are over."""
        over = [request for request in self.all() if request.over]
        for request in over[: max(0, len(over) - KEPT_MAX)]:
            self._path(request.id).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def _read(path: Path) -> Request | None:
    try:
        value = json.loads(path.read_text(encoding="ascii"))
        return Request(**{item.name: value[item.name] for item in fields(Request) if item.name in value})
    except (OSError, ValueError, KeyError, TypeError):
        return None
