"""The node's key file: 32 secret bytes in hexadecimal, readable by its owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from spore_borg.errors import IntegrityError
from spore_borg.records.keys import SigningKey

SEED_BYTES = 32


def load_or_create(path: Path) -> tuple[SigningKey, bytes]:
    """The signing key and its seed (32 bytes, for the transport's certificate).

    Raises:
        IntegrityError: the file is there but not a key.
    """
    if not path.exists():
        _create(path)
    elif path.stat().st_mode & 0o077:
        path.chmod(0o600)  # a copy from a backup, say, that others could read
    text = path.read_text(encoding="ascii", errors="replace").strip()
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise IntegrityError(
            what=f"The key file {path}",
            detail="it does not hold 64 hexadecimal digits",
            hint="Restore it from your backup, or move it away to begin as a new node.",
        )
    return SigningKey(seed), seed


def _create(path: Path) -> None:
    """Write a fresh key durably before anyone can see the name of it."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(SEED_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # records that this key signs must not outlast it
    finally:
        os.close(directory)
