"""The state of the mesh as a directory that works without a node: its shards and who verified them.

``state.json`` lists the models; the shards lie beside it under their ids. ``spore_borg.load(DIR)`` answers from it.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spore_borg.errors import NotFound, UsageError
from spore_borg.home import Home
from spore_borg.node.control_client import fetch_blob
from spore_borg.records.cid import Cid
from spore_borg.store.blobs import Blobs
from spore_borg.store.tables import Tables
from spore_borg.store.voices import Voice, voices

FORMAT = "spore-borg-state/1"
LIST = "state.json"


def fetch(home: Path, out: Path) -> dict[str, Any]:
    """Write every model of the state to a directory; shards that are there already are kept.

    Returns:
        ``dir``, ``digest`` of the state (empty while the mesh is solo) and ``models``.
    Raises:
        NotFound: no node has run here, the state is empty, or a shard is nowhere.
        UsageError: the directory holds other things.
    """
    known, meta = _known(Home(home))
    if not known:
        raise NotFound(what="absorbed model in", name=home, hint="`borg absorb SOURCE` brings one in.")
    if out.exists() and any(out.iterdir()) and not (out / LIST).is_file():
        raise UsageError(detail=f"{out} holds other files. Give an empty or a new directory.")
    out.mkdir(parents=True, exist_ok=True)
    blobs = Blobs(Home(home).blobs)
    for voice in known:
        _copy(blobs, home, voice, out)
    value = {"format": FORMAT, **meta, "models": [{**asdict(v), "file": _file(v)} for v in known]}
    draft = out / f"{LIST}.new"
    draft.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(draft, out / LIST)
    return {"dir": str(out), **value}


def _known(home: Home) -> tuple[list[Voice], dict[str, str]]:
    db = Tables.open_readonly(home.views)
    try:
        rows = db.execute(
            "SELECT key, value FROM meta WHERE key IN ('mesh', 'state_digest', 'round_settled')"
        )
        meta = {str(row["key"]): str(row["value"]) for row in rows}
        return voices(db), {"mesh": meta.get("mesh", ""), "digest": meta.get("state_digest", "")}
    finally:
        db.close()


def _file(voice: Voice) -> str:
    return f"{voice.weights}.safetensors"


def _copy(blobs: Blobs, home: Path, voice: Voice, out: Path) -> None:
    """Through a draft, so that a shard under its name is whole."""
    target, cid = out / _file(voice), Cid.parse(voice.weights)
    if target.is_file():
        return
    if not blobs.has(cid):
        fetch_blob(Home(home), cid)
    blobs.verify(cid)
    draft = target.with_suffix(".new")
    shutil.copyfile(blobs.path(cid), draft)
    os.replace(draft, target)
