"""The control socket: commands for the running node, from its owner only.

One JSON object a line, one request a connection; the command line's end is ``cli/control.py``.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from spore_borg.errors import BorgError, UsageError

REQUEST_BYTES_MAX = 65_536
REQUEST_TIMEOUT_S = 10.0

Handler = Callable[..., Awaitable[Any]]


async def serve(
    path: Path, handlers: Mapping[str, Handler], task_status: Any = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer on a Unix socket that only the owner may open, until cancelled."""
    path.unlink(missing_ok=True)  # noqa: ASYNC240 - one name in a local directory
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        await listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(16)
    task_status.started()

    async def one(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await _answer(stream, handlers)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                pass  # the asker went away

    try:
        await trio.serve_listeners(one, [trio.SocketListener(listener)])
    finally:
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - as above


async def _answer(stream: trio.SocketStream, handlers: Mapping[str, Handler]) -> None:
    raw = b""
    with trio.fail_after(REQUEST_TIMEOUT_S):
        while not raw.endswith(b"\n") and len(raw) < REQUEST_BYTES_MAX:
            part = await stream.receive_some(65_536)
            if not part:
                break
            raw += part
    try:
        handler, params = _request(raw, handlers)
        answer: dict[str, Any] = {"result": await handler(**params)}
    except BorgError as error:
        answer = {"error": {"code": error.exit_code, "kind": type(error).__name__, "message": str(error)}}
    await stream.send_all(json.dumps(answer).encode() + b"\n")


def _request(raw: bytes, handlers: Mapping[str, Handler]) -> tuple[Handler, dict[str, Any]]:
    """The handler that a request asks for, and its parameters.

    Raises:
        UsageError: it is not a request, or its parameters are not the handler's in name or type.
    """
    try:
        request = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UsageError(detail=f"Not a request: {error}. One JSON object on one line is.") from error
    op = request.pop("op", None) if isinstance(request, dict) else None
    if not isinstance(op, str) or op not in handlers:
        raise UsageError(
            detail="The node does not know this request; do node and command have the same version?"
        )
    wanted = inspect.signature(handlers[op], eval_str=True).parameters
    for name, value in request.items():
        if name not in wanted or type(value) is not wanted[name].annotation:
            raise UsageError(detail=f"The request {op} takes no {name} of this kind: {str(value)[:60]!r}")
    if lacking := [name for name, one in wanted.items() if one.default is one.empty and name not in request]:
        raise UsageError(detail=f"The request {op} lacks {', '.join(lacking)}.")
    return handlers[op], request
