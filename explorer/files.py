"""Files that are whole or not there, and not touched when they hold the right bytes already."""

from __future__ import annotations

import os
from pathlib import Path


def put(path: Path, raw: bytes) -> int:
    """Make a file hold the bytes; 1 if it did not before. Never half written."""
    try:
        if path.read_bytes() == raw:
            return 0
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(raw)
    os.replace(part, path)
    return 1
