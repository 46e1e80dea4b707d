"""The explorer beside the node: a process of its own, started again if it dies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import trio

AGAIN_AFTER_S = 3.0
_URL_LINE_BYTES_MAX = 4_096


async def serve_pages(home: Path, bind: str, port: int, ready: Callable[[str], None]) -> None:
    """Run the explorer until cancelled.

    Args:
        home: the node's directory; bind, port: where to serve; the next free port is taken if it is in use.
        ready: told the URL each time the explorer is up.
    """
    command = [
        sys.executable,
        "-m",
        "spore_borg.node.leash",
        "explorer",
        "--home",
        str(home),
        "--bind",
        bind,
        "--port",
        str(port),
        "--next-free",
    ]
    while True:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert process.stdout is not None, "it was asked for"
            line = b""
            async for part in process.stdout:
                line += part
                words = line.decode(errors="replace").split() if b"\n" in line else []
                if urls := [word for word in words if word.startswith("http")]:
                    ready(urls[0])
                    line = b""
                line = line[-_URL_LINE_BYTES_MAX:]
            await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                with trio.CancelScope(shield=True), trio.move_on_after(3.0):
                    await process.wait()
            if process.returncode is None:
                process.kill()
        await trio.sleep(AGAIN_AFTER_S)
