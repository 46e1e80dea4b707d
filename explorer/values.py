"""Pages are values: frozen dataclasses that HTML, JSON and the command line show alike.

Metrics are integers in nano-units of the task's unit, trust and ledger amounts in 2^-20, times in milliseconds.
Nothing here formats; :mod:`explorer.show` does.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How many nodes report the same view as this one, from the digests in their seals."""

    round: int
    digest: str
    nodes_same: int
    nodes_reporting: int
    nodes_known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What every page says of the mesh: where these views stand."""

    version: int
    fresh: bool  # no node has written views here yet
    status: str  # solo, mesh, or empty
    mesh: str
    mesh_name: str
    me: str
    round: int | None
    round_settled: int | None
    epoch: int | None
    epoch_ms: int | None  # length of an epoch
    time_ms: int | None  # start of epoch 0, milliseconds since 1970, as the mesh's first record says
    digest: str
    records: int
    waiting: int
    nodes: int
    agreement: Agreement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """A node: its name (its key) and the display name that it gives itself, which nobody has checked."""

    name: str
    display: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRow:
    """One record in a list. The fields from ``task`` on are None unless it is an experiment."""

    seq: int
    cid: str
    kind: str
    title: str
    author: Who
    epoch: int
    round: int | None
    target: str | None
    size_bytes: int
    task: str | None
    hardware_class: str | None
    metric: int | None
    gain: int | None
    outcome: str | None
    verdict: str | None
    stage: str | None
    settled: bool | None
    frontier: int | None
    operator: str | None  # which proposer
    changed: tuple[object, ...]  # [field, before, after] of the recipe against its base


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What every page has."""

    name: ClassVar[str] = ""
    live: ClassVar[tuple[str, ...]] = ("view",)  # topics that change it
    frame: Frame


def to_plain(value: object) -> object:
    """A page value as JSON types; field order is kept."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def to_json(page: Page) -> str:
    """The JSON twin of a page: what ``/x.json`` serves and what ``--json`` prints."""
    body = {"page": page.name, **to_plain(page)}  # type: ignore[dict-item]
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
