"""The child process in which torch lives: JSON lines in on stdin, JSON lines out on stdout.

A request is ``{"id": n, "op": name, "params": {…}}``; answers are ``{"id": n, "progress": {…}}`` (some) and then
one of ``{"id": n, "result": {…}}`` or ``{"id": n, "error": {"kind", "detail"}}``. Kinds of error: ``request``
(the line or its params), ``task``, ``recipe``, ``data`` (inputs that do not fit), ``crashed`` (a replay that
diverges) and ``defect``. The process ends when its stdin closes, within a step even in mid-training.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from spore_borg.runner import absorb_ops, answer_ops, convert_ops, lattice_ops

LINE_BYTES_MAX = 1 << 20
PROGRESS_INTERVAL_S = 0.2
EXIT_GRACE_S = 5.0  # from the end of stdin to a forced exit, for work that has no steps

Params = dict[str, Any]


class Stopped(Exception):
    """The parent is gone: leave the work and the process."""


class RequestError(ValueError):
    """A request that lacks a parameter, or has one of the wrong type."""


def _get(params: Params, name: str, kind: type, default: object = None) -> Any:
    value = params.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RequestError(f"{name} is {type(value).__name__}; this op needs {kind.__name__}")
    return value


def _path(params: Params, name: str) -> Path | None:
    return None if params.get(name) is None else Path(_get(params, name, str))


class Channel:
    """The parent's end of the pipe: requests in, lines out, and whether it still listens."""

    def __init__(self) -> None:
        # Only protocol lines may reach the parent: whatever else prints, in C too, goes to stderr.
        self._out = os.dup(1)
        os.dup2(2, 1)
        self.requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.closed = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        # Not sys.stdin: a thread inside its buffer would abort the interpreter's own exit.
        rest = b""
        while chunk := os.read(0, 65_536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.requests.put(line)
            if len(rest) > LINE_BYTES_MAX:
                break
        self.closed.set()
        self.requests.put(None)
        time.sleep(EXIT_GRACE_S)
        os._exit(0)

    def send(self, message: dict[str, Any]) -> None:
        """Write one line. Raises Stopped when nobody reads any more."""
        rest = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            while rest:
                rest = rest[os.write(self._out, rest) :]
        except BrokenPipeError as error:
            raise Stopped from error


class Worker:
    """Carries out one request after another."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.device, self.wanted = "cpu", "auto"
        self.threads = 1
        self.resource = 100
        self.niced = False
        self.ops: dict[str, Callable[[int, Params], dict[str, Any]]] = {
            "hello": self.hello,
            "dataset": self.dataset,
            "steps": self.steps,
            "train": self.train,
            "evaluate": self.evaluate,
            "replay": self.replay,
            "trace": self.trace,
            "step_distance": self.step_distance,
            "answer": lambda _number, params: answer_ops.answer(params, self.wanted),
            **{name: self.learned(op) for name, op in {**absorb_ops.OPS, **convert_ops.OPS}.items()},
        }
        self.ops |= {name: self.by_kind(op, self.ops[name]) for name, op in lattice_ops.OPS.items()}

    def serve(self) -> None:
        """Answer requests until the parent closes the pipe. Raises Stopped in the middle of one."""
        while (line := self.channel.requests.get()) is not None:
            number = 0
            try:
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise RequestError("a request is an object with id, op and params")
                number = _get(message, "id", int, 0)
                op = self.ops.get(_get(message, "op", str, ""))
                if op is None:
                    raise RequestError(f"no op {message.get('op')!r}; the ops are {', '.join(self.ops)}")
                answer = {"id": number, "result": op(number, _get(message, "params", dict, {}))}
            except Stopped:
                raise
            except Exception as error:
                answer = {"id": number, "error": describe(error)}
            self.channel.send(answer)

    def hello(self, _number: int, params: Params) -> dict[str, Any]:
        """Set threads, device and share; say what this process computes on."""
        import numpy as np
        import torch

        from spore_borg.runner import evaluators, fingerprint, hardware
        from workspace.train import deterministic

        self.threads = _get(params, "threads", int, 1)
        self.resource = _get(params, "resource", int, 100)
        if not 1 <= self.resource <= 100:
            raise RequestError(f"resource is {self.resource}; it is a percentage from 1 to 100")
        if not 1 <= self.threads <= 1_024:
            raise RequestError(f"threads is {self.threads}; it is a number from 1 to 1024")
        increment = _get(params, "nice", int, 0)
        if not self.niced and 0 < increment <= 19 and hasattr(os, "nice"):
            os.nice(increment)
            self.niced = True
        self.wanted = _get(params, "device", str, "auto")
        self.device = pick_device(self.wanted)
        torch.set_num_threads(self.threads)
        deterministic()
        if self.device == "cuda":
            torch.cuda.set_per_process_memory_fraction(self.resource / 100)
        card = torch.cuda.get_device_name() if self.device == "cuda" else ""
        family = hardware.family(self.device, card)
        return {
            "family": family,
            "class": family,
            "fingerprint": fingerprint.measure(self.device, self.threads).hex(),
            "suite": fingerprint.SUITE,
            "device": card or platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            **evaluators.digests(),
            "cores": os.cpu_count() or 1,
            "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            "threads": self.threads,
            "resource": self.resource,
        }

    def by_kind(
        self, lattice: lattice_ops.Op, other: Callable[[int, Params], dict[str, Any]]
    ) -> Callable[[int, Params], dict[str, Any]]:
        """The operation that the kind of the request's task asks for."""

        def run(number: int, params: Params) -> dict[str, Any]:
            if lattice_ops.is_lattice(params):
                return lattice(params, self.pace(number))
            return other(number, params)

        return run

    def learned(self, op: absorb_ops.Op) -> Callable[[int, Params], dict[str, Any]]:
        """An operation on models; it tells its stages, and stops when the parent is gone."""

        def run(number: int, params: Params) -> dict[str, Any]:
            def report(stage: str, layer: int, layers: int) -> None:
                if self.channel.closed.is_set():
                    raise Stopped
                progress = {"stage": stage, "layer": layer, "layers": layers}
                self.channel.send({"id": number, "progress": progress})

            return op(params, report)

        return run

    def dataset(self, _number: int, params: Params) -> dict[str, Any]:
        """Build a dataset file; ``val_bytes`` by the name of each shipped task that it is long enough for."""
        from workspace import data, evaluate, tasks

        out = Path(_get(params, "out", str))
        about = {name: _get(params, name, str, "") for name in ("corpus", "licence")}
        built = data.build(out, _path(params, "text_path"), **about)
        tokens = data.load(out)
        sizes: dict[str, int] = {}
        for name in tasks.NAMES:
            spec = tasks.spec(name)
            if len(tokens.val) > spec["blocks"] * spec["block_tokens"]:
                sizes[name] = evaluate.val_bytes(spec, tokens)
        if not sizes:
            out.unlink()
            least = tasks.spec("pico")
            raise data.DataError(
                f"the text gives {len(tokens.val)} validation tokens and the smallest task, pico, needs "
                f"{least['blocks'] * least['block_tokens'] + 1}; give more text (about half a megabyte)"
            )
        return {**built, "val_bytes": sizes}

    def steps(self, _number: int, params: Params) -> dict[str, Any]:
        """Steps, FLOPs per step and parameters of a recipe on a task."""
        from workspace import harness

        return dict(harness.steps(_get(params, "task", dict), _get(params, "recipe", dict)))

    def train(self, number: int, params: Params) -> dict[str, Any]:
        """Train and evaluate a recipe; progress lines on the way."""
        from workspace import harness

        return harness.train(
            _get(params, "task", dict),
            _get(params, "recipe", dict),
            _get(params, "seed", int),
            Path(_get(params, "data_path", str)),
            Path(_get(params, "out_dir", str)),
            device=self.device,
            each=self.pace(number),
        )

    def evaluate(self, _number: int, params: Params) -> dict[str, Any]:
        """Recompute the losses of some blocks of published weights."""
        from workspace import harness

        blocks = _get(params, "blocks", list)
        if not all(type(block) is int for block in blocks):
            raise RequestError("blocks is a list of block numbers")
        return harness.evaluate(
            _get(params, "task", dict),
            _get(params, "recipe", dict),
            Path(_get(params, "data_path", str)),
            Path(_get(params, "weights_path", str)),
            blocks,
            device=self.device,
        )

    def replay(self, number: int, params: Params) -> dict[str, Any]:
        """Run one segment again."""
        from workspace import harness

        state = params.get("state_path")
        return harness.replay(
            _get(params, "task", dict),
            _get(params, "recipe", dict),
            _get(params, "seed", int),
            Path(_get(params, "data_path", str)),
            _get(params, "segment", int),
            state_path=None if state is None else Path(_get(params, "state_path", str)),
            inner_step=_get(params, "inner_step", int, 0),
            to_end=_get(params, "to_end", bool, True),
            device=self.device,
            each=self.pace(number),
        )

    def trace(self, number: int, params: Params) -> dict[str, Any]:
        """Run one segment again and tell the digest of every state; some states are saved."""
        from workspace import harness

        save = _get(params, "save", list, [])
        if not all(type(step) is int for step in save):
            raise RequestError("save is a list of steps")
        return harness.trace(
            _get(params, "task", dict),
            _get(params, "recipe", dict),
            _get(params, "seed", int),
            Path(_get(params, "data_path", str)),
            _get(params, "segment", int),
            state_path=_path(params, "state_path"),
            save=save,
            out_dir=_path(params, "out_dir"),
            device=self.device,
            each=self.pace(number),
        )

    def step_distance(self, _number: int, params: Params) -> dict[str, Any]:
        """Run one step between two published states and tell the relative error."""
        from workspace import harness

        return harness.step_distance(
            _get(params, "task", dict),
            _get(params, "recipe", dict),
            _get(params, "seed", int),
            Path(_get(params, "data_path", str)),
            _get(params, "segment", int),
            _get(params, "step", int),
            before_path=_path(params, "before_path"),
            after_path=_path(params, "after_path"),
            device=self.device,
        )

    def pace(self, number: int) -> Callable[[int, int, float], None]:
        """Between two steps: stop if the parent is gone, tell it how far we are, and rest for the share."""
        told_s = 0.0
        busy_s = time.monotonic()

        def each(step: int, steps: int, loss: float) -> None:
            nonlocal told_s, busy_s
            now_s = time.monotonic()
            if self.channel.closed.is_set():
                raise Stopped
            if now_s - told_s >= PROGRESS_INTERVAL_S or step == steps:
                told_s = now_s
                progress = {"step": step, "steps": steps, "loss": round(loss * 1e6)}
                self.channel.send({"id": number, "progress": progress})
            if self.resource < 100:
                self.channel.closed.wait((now_s - busy_s) * (100 - self.resource) / self.resource)
            busy_s = time.monotonic()

        return each


def pick_device(wanted: str) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``mps`` to a device that is there. Raises RequestError."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, found in there.items() if found)
    if not there.get(wanted):
        usable = ", ".join(name for name, found in there.items() if found)
        raise RequestError(f"no device {wanted!r} here; usable are auto, {usable}")
    return wanted


def describe(error: Exception) -> dict[str, str]:
    """An exception as the ``error`` of an answer; the traceback of a defect goes to stderr."""
    from workspace.recipe import RecipeError
    from workspace.tasks import TaskError

    names = {cls.__name__ for cls in type(error).__mro__}  # by name: data and train would import torch here
    if isinstance(error, RequestError | absorb_ops.OpError | json.JSONDecodeError):
        kind = "request"
    elif isinstance(error, RecipeError):
        kind = "recipe"
    elif isinstance(error, TaskError):
        kind = "task"
    elif names & {"DataError", "TensorError", "LearnError"} or isinstance(error, OSError):
        kind = "data"
    elif "Crashed" in names:
        kind = "crashed"
    else:
        kind = "defect"
        traceback.print_exception(error, file=sys.stderr)
    return {"kind": kind, "detail": str(error) or type(error).__name__}


def main() -> int:
    """Serve until stdin closes; 0 then, 143 after SIGTERM."""

    def on_term(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(143)  # unwinds, so half-written files are removed

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    try:
        Worker(Channel()).serve()
    except Stopped:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
