"""Which version of this code measures: one digest over every source that decides a number.

A node verifies absorptions only on tasks with its own digest, since other code would accuse the honest.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from importlib.resources.abc import Traversable

# What decides no number of a claim, below this folder: how sources are fetched, how a suite is built (a claim names the
# suite by its content), how the finished state answers and is kept.
APART = frozenset(
    (
        "__init__.py", "digest.py", "sources", "suite_data.py", "suite_files.py",
        "answers.py", "local.py", "items.py", "spike/events.py", "spike/quick.py", "spike/engine.py",
        "spike/windows.py",
        "state.py", "crdt.py",
    )
)  # fmt: skip


def learn_digest() -> bytes:
    """sha256 over names and texts of the sources, by name: the evaluator of a suite's task, 32 bytes."""
    total = hashlib.sha256()
    found = dict(_sources(resources.files("spore_borg.learn"), ""))
    for name in sorted(found):
        total.update(f"{name}\0{len(found[name])}\0".encode() + found[name])
    return total.digest()


def _sources(folder: Traversable, before: str) -> list[tuple[str, bytes]]:
    """(name, text) of every Python file below a folder; line ends are a matter of the checkout."""
    found: list[tuple[str, bytes]] = []
    for item in folder.iterdir():
        if before + item.name in APART or item.name == "__pycache__":
            continue
        if item.is_dir():
            found += _sources(item, f"{before}{item.name}/")
        elif item.name.endswith(".py"):
            found.append((before + item.name, item.read_bytes().replace(b"\r\n", b"\n")))
    return found
