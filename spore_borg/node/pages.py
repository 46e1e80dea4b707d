"""The explorer beside the node: a process of its own, started again if it dies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import trio

AGAIN_AFTER_S = 3.0
_LINE_BYTES_MAX = 4_096
GREETING = "explorer: "  # before the URL, in the line that the explorer prints when it answers


async def serve_pages(
    home: Path, bind: str, port: int, ready: Callable[[str], None], failed: Callable[[str], None]
) -> None:
    """Run the explorer until cancelled; start it again when it ends.

    Args:
        home: the node's directory; bind, port: where to serve; the next free port is taken if it is in use.
        ready: told the URL each time the explorer is up.
        failed: told the explorer's last line each time it has ended.
    """
    command = [
        sys.executable, "-m", "spore_borg.node.leash", "explorer",
        "--home", str(home), "--bind", bind, "--port", str(port), "--next-free",
    ]  # fmt: skip
    while True:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            last = await _listen(process, ready)
            await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                with trio.CancelScope(shield=True), trio.move_on_after(3.0):
                    await process.wait()
            if process.returncode is None:
                process.kill()
        failed(last)
        await trio.sleep(AGAIN_AFTER_S)


async def _listen(process: trio.Process, ready: Callable[[str], None]) -> str:
    """Read what the explorer prints until it ends; returns its last line."""
    assert process.stdout is not None, "it was asked for"
    rest, last = b"", ""
    async for part in process.stdout:
        *lines, rest = (rest + part).split(b"\n")
        rest = rest[-_LINE_BYTES_MAX:]
        for line in lines:
            last = line.decode(errors="replace").strip() or last
            if last.startswith(GREETING):
                ready(last.removeprefix(GREETING))
    return last
