"""The command line's end of the control socket: one JSON object a line, one request, one answer.

``control.sock`` is a Unix socket in the node's directory that only its owner may open. A request is
``{"op": "status", …}``, an answer ``{"result": …}`` or ``{"error": {"code", "kind", "message"}}``.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from spore_borg.errors import BorgError, NodeUnreachable, TimedOut

SOCKET_NAME = "control.sock"
ANSWER_BYTES_MAX = 4 << 20  # one answer


class NodeRefused(BorgError):
    """{detail}"""


def call(home: Path, op: str, *, timeout_s: float = 5.0, **params: object) -> Any:
    """Ask the running node.

    Args:
        home: the node's directory.
        op: what to ask, for example ``status``, ``peers``, ``connect``, ``ticket``.
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
            wire.connect(str(home / SOCKET_NAME))
            wire.sendall(request)
            raw = _line(wire)
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


def running(home: Path) -> dict[str, Any] | None:
    """What the running node says of itself, or None when none runs."""
    try:
        answer = call(home, "status", timeout_s=2.0)
    except (NodeUnreachable, TimedOut):
        return None
    return answer if isinstance(answer, dict) else None


def _line(wire: socket.socket) -> bytes:
    """Bytes up to the first line break, at most :data:`ANSWER_BYTES_MAX`."""
    parts: list[bytes] = []
    size_bytes = 0
    while size_bytes < ANSWER_BYTES_MAX:
        part = wire.recv(65_536)
        parts.append(part)
        size_bytes += len(part)
        if not part or part.endswith(b"\n"):
            break
    return b"".join(parts)
