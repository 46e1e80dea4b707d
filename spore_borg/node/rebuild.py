"""Deriving the views again, and reading everything again: what ``borg rebuild`` and ``borg check`` do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from spore_borg.errors import BorgError, NotFound
from spore_borg.home import Home
from spore_borg.node import identity
from spore_borg.records.admit import Stub, check_context
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record, parse
from spore_borg.records.reasons import Refused
from spore_borg.store.blobs import Blobs
from spore_borg.store.log import Log
from spore_borg.store.tables import Tables
from spore_borg.views.reduce import View
from spore_borg.views.rows import tables

HINT = "Start a node with `borg run`, or give --home."


def rebuild(path: Path) -> dict[str, Any]:
    """Delete the views and fold them from the log again.

    Returns:
        mesh, records, round, digest (of the newest round), round_before, digest_before (the settled round of the old
        views and what they said of it), same (whether it is what the records say), seconds.
    Raises:
        NotFound: there is no log. Locked: a node runs here; it rebuilds by itself.
    """
    home = Home(path)
    if not home.log.is_file():
        raise NotFound(what="log", name=str(home.log), hint=HINT)
    with home.lock():
        began = time.monotonic()
        # The newest rounds may have changed by records that the old views had not folded yet; settled ones never do.
        round_before, before = _meta(home, "round_settled"), _meta(home, "digest")
        for suffix in ("", "-wal", "-shm"):
            home.views.with_name(home.views.name + suffix).unlink(missing_ok=True)
        key, _ = identity.load_or_create(home.key)
        with Log.open_readonly(home.log) as log, Tables(home.views) as made:
            rows = list(log.scan())
            view = View(record for _, record in rows)
            made.publish(tables(view, {record.cid: seq for seq, record in rows}, key.public))
        newest = view.digest_of(view.round)
        digest = newest.hex() if newest else ""
        settled = (view.digest_of(int(round_before)) or b"").hex() if round_before and before else ""
        return {
            "mesh": str(view.genesis.cid) if view.genesis else "", "records": len(rows), "round": view.round,
            "digest": digest, "round_before": round_before, "digest_before": before, "same": before == settled,
            "seconds": round(time.monotonic() - began, 3),
        }  # fmt: skip


def _meta(home: Home, key: str) -> str:
    try:
        views = Tables.open_readonly(home.views)
    except BorgError:
        return ""
    try:
        row = views.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    finally:
        views.close()
    return str(row[0]) if row else ""


def check(path: Path, *, blobs: bool) -> dict[str, Any]:
    """Read the log (every signature, every rule) and, if asked, every chunk of every blob.

    Returns:
        ok, records, blobs (count), bytes, damage (a sentence for each).
    Raises:
        NotFound: there is no log here.
    """
    home = Home(path)
    damage: list[str] = []
    with Log.open_readonly(home.log) as log:
        log.check()
        records = [record for _, record in log.scan()]
        mesh = log.meta("mesh")
    damage += check_records(records, Cid.parse(mesh) if mesh else None)
    count = size = 0
    if blobs and home.blobs.is_dir():
        store = Blobs(home.blobs)
        for cid, size_bytes in store.list():
            count, size = count + 1, size + size_bytes
            try:
                store.verify(cid)
            except BorgError as error:
                damage.append(str(error))
    return {"ok": not damage, "records": len(records), "blobs": count, "bytes": size, "damage": damage}


def check_records(records: list[Record], mesh: Cid | None) -> list[str]:
    """Judge records once more as if a stranger had sent them; one sentence for each that does not hold."""
    stubs: dict[Cid, Stub] = {}
    damage = []
    for record in records:
        try:
            fresh = parse(record.raw)
            if mesh is not None:
                check_context(fresh, mesh, stubs.get, 1 << 40)
        except Refused as error:
            damage.append(f"record {record.cid}: {error}")
        stubs[record.cid] = Stub(record.author, record.seq, record.epoch)
    return damage
