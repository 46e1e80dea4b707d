"""Asking a running node: one JSON object a line over its control socket, one request, one answer.

``control.sock`` is a Unix socket in the node's directory that only its owner may open. A request is
``{"op": "status", …}``, an answer ``{"result": …}`` or ``{"error": {"code", "kind", "message"}}``.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from spore_borg.errors import BorgError, NodeUnreachable, NotFound, TimedOut
from spore_borg.home import Home
from spore_borg.records.cid import Cid

ANSWER_BYTES_MAX = 4 << 20
FETCH_TIMEOUT_S = 300.0


class NodeRefused(BorgError):
    """{detail}"""


def ask(home: Path, op: str, *, timeout_s: float = 5.0, **params: object) -> Any:
    """Ask the node that runs in a directory.

    Args:
        home: the node's directory.
        op: what to ask: ``status``, ``peers``, ``connect``, ``ticket``, ``fetch``.
        params: further members of the request; JSON values.
    Returns:
        The ``result`` of the answer.
    Raises:
        NodeUnreachable: nobody listens in ``home``.
        TimedOut: no answer within ``timeout_s``.
        NodeRefused: the node answered with an error; it carries the node's exit code and message.
    """
    request = json.dumps({"op": op, **params}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
            wire.settimeout(timeout_s)
            wire.connect(str(Home(home).control))
            wire.sendall(request)
            with wire.makefile("rb") as lines:
                raw = lines.readline(ANSWER_BYTES_MAX)
    except TimeoutError as error:
        raise TimedOut(
            what=f"The node's answer to {op!r}", limit_s=timeout_s, hint="Is it very busy?"
        ) from error
    except OSError as error:  # no such file, refused, reset, or a path longer than a socket's may be
        raise NodeUnreachable(home=home) from error
    if not raw:
        raise NodeUnreachable(home=home)
    answer = json.loads(raw)
    if "error" in answer:
        refusal = NodeRefused(detail=answer["error"].get("message", "The node refused."))
        refusal.exit_code = int(answer["error"].get("code", NodeRefused.exit_code))  # type: ignore[misc]
        raise refusal
    return answer["result"]


def fetch_blob(home: Home, cid: Cid) -> None:
    """Let the running node bring a blob here.

    Raises:
        NotFound: no node runs here, or none of its peers has the blob.
    """
    try:
        ask(home.path, "fetch", timeout_s=FETCH_TIMEOUT_S, cid=str(cid))
    except (NodeUnreachable, TimedOut) as error:
        hint = "Start the node with `borg run`, so that it can ask its peers for it."
        raise NotFound(what="blob", name=str(cid), hint=hint) from error
