"""The command line's way to the running node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spore_borg.errors import NodeUnreachable, TimedOut
from spore_borg.node.control_client import NodeRefused
from spore_borg.node.control_client import ask as call

__all__ = ["NodeRefused", "call", "running"]


def running(home: Path) -> dict[str, Any] | None:
    """What the running node says of itself, or None when none runs."""
    try:
        answer = call(home, "status", timeout_s=2.0)
    except (NodeUnreachable, TimedOut):
        return None
    return answer if isinstance(answer, dict) else None
