"""What a node must remember between two records of one exchange, as small JSON files written durably.

A run's secrets are written before its claim is published, evidence before its commit: a kill at any moment
loses nothing that the mesh has been told of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spore_borg.policies.prover import Found, Run


class Drawer:
    """One directory of JSON files, named by hexadecimal digests only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, name: bytes, value: Mapping[str, Any]) -> None:
        """Write durably: afterwards the file is whole or as it was."""
        path = self._directory / f"{name.hex()}.json"
        draft = path.with_suffix(".new")
        with draft.open("w", encoding="ascii") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_directory(self._directory)

    def get(self, name: bytes) -> dict[str, Any] | None:
        """What was put; None if there is nothing, or what is there is damaged."""
        path = self._directory / f"{name.hex()}.json"
        try:
            value = json.loads(path.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def names(self) -> list[bytes]:
        """Names of everything in it."""
        return [bytes.fromhex(path.stem) for path in self._directory.glob("*.json")]

    def drop(self, name: bytes) -> None:
        """Forget it."""
        (self._directory / f"{name.hex()}.json").unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    """Make a new name in a directory outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pack_run(run: Run) -> dict[str, Any]:
    """A run's secrets as JSON."""
    return {
        "losses": list(run.losses), "digests": [d.hex() for d in run.digests], "params": run.params.hex(),
        "tail": run.tail.hex(), "loss_secret": run.loss_secret.hex(), "state_secret": run.state_secret.hex(),
    }  # fmt: skip


def unpack_run(value: Mapping[str, Any]) -> Run:
    """The run behind ``pack_run``."""
    octets = bytes.fromhex
    return Run(
        tuple(value["losses"]), tuple(octets(d) for d in value["digests"]), octets(value["params"]),
        octets(value["tail"]), octets(value["loss_secret"]), octets(value["state_secret"]),
    )  # fmt: skip


def pack_found(nonce: bytes, found: Found) -> dict[str, Any]:
    """Evidence and its nonce as JSON."""
    return {
        "nonce": nonce.hex(), "params": found.params.hex() if found.params else None,
        "losses": [list(item) for item in found.losses], "cpu_ms": found.cpu_ms,
        "segments": [[k, step, start.hex(), inner.hex(), end.hex()] for k, step, start, inner, end in found.segments],
        "steps": [list(item) for item in found.steps],
    }  # fmt: skip


def unpack_found(value: Mapping[str, Any]) -> tuple[bytes, Found]:
    """The nonce and evidence behind ``pack_found``."""
    octets = bytes.fromhex
    segments = tuple((k, n, octets(a), octets(b), octets(c)) for k, n, a, b, c in value["segments"])
    losses = tuple((block, loss) for block, loss in value["losses"])
    params = octets(value["params"]) if value["params"] else None
    steps = tuple((step, ppm) for step, ppm in value["steps"])
    return octets(value["nonce"]), Found(params, losses, segments, value["cpu_ms"], steps)
