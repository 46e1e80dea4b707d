"""``/about`` and ``/api``: what this is, which version, and which addresses there are."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from email.message import Message
from importlib import metadata
from typing import ClassVar

from explorer.db import Db
from explorer.pages.common import frame, live_values
from explorer.routes import ROUTES, Route
from explorer.values import Page

_SHOWN = ("address", "mode", "pid", "explorer")  # never the ticket: whoever reads it may join by it
_PARTS = ("starlette", "uvicorn", "jinja2", "cbor2", "pynacl", "torch", "safetensors", "crdt-merge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A library in use, its version and its licence as its package states it."""

    name: str
    version: str
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutPage(Page):
    """Version, licences and how to read the pages."""

    name: ClassVar[str] = "about"
    version: str
    python: str
    node: dict[str, object]  # what the node says of itself
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiPage(Page):
    """Every page has a JSON twin; this lists them."""

    name: ClassVar[str] = "api"
    routes: tuple[Route, ...]


def _part(name: str) -> Part | None:
    try:
        found: Message = metadata.metadata(name)  # type: ignore[assignment]
    except metadata.PackageNotFoundError:
        return None
    licence = found.get("License-Expression") or found.get("License") or ""
    return Part(
        name=name,
        version=found["Version"],
        licence=licence.splitlines()[0][:200] if licence else "see package",
    )


def about(db: Db) -> AboutPage:
    """Build the page of versions and licences."""
    try:
        version = metadata.version("spore-borg")
    except metadata.PackageNotFoundError:
        version = "not installed"
    live = live_values(db).get("node")
    said = live if isinstance(live, dict) else {}
    return AboutPage(
        frame=frame(db),
        version=version,
        python=sys.version.split()[0],
        node={key: said[key] for key in _SHOWN if said.get(key) is not None},
        parts=tuple(part for part in map(_part, _PARTS) if part is not None),
    )


def api(db: Db) -> ApiPage:
    """Build the list of addresses."""
    return ApiPage(frame=frame(db), routes=ROUTES)
