"""One job in a worker of its own, for commands that run without a node."""

from __future__ import annotations

from typing import Any

import trio

from spore_borg.runner.client import Worker

JOB_TIMEOUT_S = 900.0


def call_worker(op: str, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Start a worker, ask it who it is and for one job, and stop it.

    Returns:
        The answers to ``hello`` and to the job.
    Raises:
        BorgError: the worker could not do it.
    """

    async def both() -> tuple[dict[str, Any], dict[str, Any]]:
        async with Worker() as worker:
            hello = await worker.call("hello", {"threads": 1}, timeout_s=JOB_TIMEOUT_S)
            return hello, await worker.call(op, params, timeout_s=JOB_TIMEOUT_S)

    return trio.run(both)
