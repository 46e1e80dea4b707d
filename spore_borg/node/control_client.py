"""The little that the node's own tools ask of a running node."""

from __future__ import annotations

import json
import socket

from spore_borg.errors import NotFound
from spore_borg.home import Home
from spore_borg.records.cid import Cid

FETCH_TIMEOUT_S = 300.0


def fetch_blob(home: Home, cid: Cid) -> None:
    """Let the running node bring a blob here.

    Raises:
        NotFound: no node runs here, or none of its peers has the blob.
    """
    hint = "Start the node with `borg run`, so that it can ask its peers for it."
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
            wire.settimeout(FETCH_TIMEOUT_S)
            wire.connect(str(home.control))
            wire.sendall(json.dumps({"op": "fetch", "cid": str(cid)}).encode() + b"\n")
            answer = json.loads(wire.makefile("rb").readline())
    except (OSError, ValueError) as error:
        raise NotFound(what="blob", name=str(cid), hint=hint) from error
    if "error" in answer:
        raise NotFound(what="blob", name=str(cid), hint=answer["error"]["message"])
