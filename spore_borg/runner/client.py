"""The handle on a worker process, for trio: start it when it is needed, ask it, end it when it fails.

One call is under way at a time; others queue. A call that is cancelled, times out or breaks ends the process,
because a training step cannot be interrupted from outside; the next call starts a fresh one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from spore_borg.runner.errors import WorkerFailed, WorkerRefused, WorkerTimedOut

LINE_BYTES_MAX = 4 << 20  # one answer; the largest is a train result, about 10 KiB
STDERR_KEPT_BYTES = 4 << 10
START_TIMEOUT_S = 120.0  # importing torch from a cold disk
END_GRACE_S = 3.0
NICE = 10

# What the child may see of the parent's environment: no variable that could hold a secret is among them.
ENVIRONMENT = frozenset(
    {
        "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT",
        "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES",
        "ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA",
        "OPENBLAS_CORETYPE", "VIRTUAL_ENV",
    }
)  # fmt: skip

Progress = Callable[[dict[str, Any]], None]


def child_environment(parent: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of the child: a few names of the parent's, and pinned threads."""
    kept = {name: value for name, value in parent.items() if name in ENVIRONMENT}
    pinned = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    root = str(Path(__file__).resolve().parents[2])  # where spore_borg and workspace lie side by side
    return {
        **kept,
        **dict.fromkeys(pinned, str(threads)),
        "OMP_DYNAMIC": "FALSE",
        "MKL_DYNAMIC": "FALSE",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a fixed workspace
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": root,
        "PYTHONUNBUFFERED": "1",
    }


class Worker:
    """One worker process, as an async context manager.

    Args:
        threads: torch threads on a CPU; part of the fingerprint.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        resource: 1 … 100, the share of the device that it may keep busy; it never changes a result.
        command: another program that speaks the protocol, for tests.
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        device: str = "auto",
        resource: int = 100,
        command: tuple[str, ...] | None = None,
    ) -> None:
        self.settings: dict[str, Any] = {"threads": threads, "device": device, "resource": resource}
        self.about: dict[str, Any] = {}  # the last answer to hello
        self.starts = 0
        self._command = command or (sys.executable, "-P", "-m", "spore_borg.runner.worker")
        self._process: trio.Process | None = None
        self._lock = trio.Lock()
        self._buffer = bytearray()
        self._stderr = bytearray()
        self._number = 0

    async def __aenter__(self) -> Self:
        """Nothing starts before the first call."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        await self.stop()

    @property
    def pid(self) -> int | None:
        """The process id while the child runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def stderr(self) -> str:
        """The last 4 KiB that the child wrote to stderr."""
        return self._stderr.decode(errors="replace")

    async def call(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        on_progress: Progress | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Ask the worker for one operation and wait for its answer; see the table in architecture.md.

        Args:
            timeout_s: seconds for this operation, without waiting in the queue; None for no limit.
            on_progress: called with ``{"step", "steps", "loss"}`` (loss in micro-nats), at most ~5 times a second.
        Raises:
            WorkerRefused: the worker answered with an error; ``.fields["kind"]`` names it.
            WorkerFailed: the process ended or broke the protocol; stderr's last line is in the message.
            WorkerTimedOut: the limit passed; the process was ended.
        """
        async with self._lock:
            try:
                if self._process is None or self._process.poll() is not None:
                    await self._start()
                if op == "hello":
                    params = {**self.settings, **(params or {})}
                answer = await self._ask(op, params or {}, on_progress, timeout_s)
            except WorkerRefused:
                raise
            except BaseException:  # also cancellation: a child in mid-step cannot be called back
                await self._end()
                raise
            if op == "hello":
                self.settings |= {name: params[name] for name in self.settings if params and name in params}
                self.about = answer
            return answer

    async def stop(self) -> None:
        """End the process now; a later call starts a new one. Safe to call at any time."""
        await self._end()

    async def _start(self) -> None:
        await self._end()
        self._buffer.clear()
        self._stderr.clear()
        self._process = await trio.lowlevel.open_process(
            list(self._command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(os.environ, int(self.settings["threads"])),
            start_new_session=True,  # a Ctrl-C in the terminal is the parent's to handle
        )
        self.starts += 1
        self.about = await self._ask("hello", {**self.settings, "nice": NICE}, None, START_TIMEOUT_S)

    async def _ask(
        self, op: str, params: Mapping[str, Any], on_progress: Progress | None, timeout_s: float | None
    ) -> dict[str, Any]:
        self._number += 1
        line = json.dumps({"id": self._number, "op": op, "params": dict(params)}).encode() + b"\n"
        limit_s = float("inf") if timeout_s is None else timeout_s
        answer: dict[str, Any] | None = None
        with trio.move_on_after(limit_s):
            answer = await self._exchange(op, line, on_progress)
        if answer is None:
            raise WorkerTimedOut(op=op, limit_s=f"{limit_s:g}")
        return answer

    async def _exchange(self, op: str, line: bytes, on_progress: Progress | None) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None:
            raise WorkerFailed(op=op, detail="it is not running")
        answer: dict[str, Any] | None = None
        broken = ""
        # Failures leave the nursery as values, so that callers meet one error and not a group of them.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drain)
            try:
                await process.stdin.send_all(line)
                answer = await self._answer(on_progress)
            except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
                with trio.move_on_after(END_GRACE_S):
                    await process.wait()
                    await trio.sleep(0.05)  # let the last words of stderr arrive
                broken = self._last_words()
            except (ValueError, RecursionError) as error:
                broken = f"it broke its protocol ({error})"
            nursery.cancel_scope.cancel()
        if answer is None:
            raise WorkerFailed(op=op, detail=broken)
        if "error" in answer:
            raise WorkerRefused(
                op=op, kind=str(answer["error"]["kind"]), detail=str(answer["error"]["detail"])
            )
        return dict(answer["result"])

    async def _answer(self, on_progress: Progress | None) -> dict[str, Any]:
        """The next final answer to the request under way. Raises EOFError, or ValueError for a bad line."""
        while True:
            message = json.loads(await self._line())
            if not isinstance(message, dict) or message.get("id") != self._number:
                raise ValueError("an answer to no request")
            if isinstance(message.get("progress"), dict):
                if on_progress is not None:
                    on_progress(message["progress"])
            elif isinstance(message.get("result"), dict) or (
                isinstance(message.get("error"), dict) and {"kind", "detail"} <= set(message["error"])
            ):
                return message
            else:
                raise ValueError("a line that is neither progress, result nor error")

    async def _line(self) -> bytes:
        process = self._process
        if process is None or process.stdout is None:
            raise EOFError
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE_BYTES_MAX:
                raise ValueError(f"a line of more than {LINE_BYTES_MAX} bytes")
            chunk = await process.stdout.receive_some(65_536)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def _drain(self) -> None:
        process = self._process
        if process is None or process.stderr is None:
            return
        try:
            while chunk := await process.stderr.receive_some(65_536):
                self._stderr += chunk
                del self._stderr[:-STDERR_KEPT_BYTES]
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return

    def _last_words(self) -> str:
        code = self._process.poll() if self._process is not None else None
        how = "it closed its output" if code is None else f"exit status {code}"
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return f"{how}, last words: {lines[-1].strip()[:300]}" if lines else how

    async def _end(self) -> None:
        """Close the pipes, then terminate, then kill; the child is reaped in every case."""
        process, self._process = self._process, None
        if process is None:
            return
        with trio.CancelScope(shield=True):
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()
            if process.poll() is None:
                process.terminate()
                with trio.move_on_after(END_GRACE_S):
                    await process.wait()
            if process.poll() is None:
                process.kill()
            await process.wait()
