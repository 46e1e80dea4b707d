"""The checks of ``borg doctor``: each looks at one thing of this machine and says how to fix it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spore_borg.cli import control

DISK_FREE_BYTES_MIN = 2 << 30
DISK_FREE_BYTES_LOW = 10 << 30
SQLITE_MIN = (3, 37, 0)  # STRICT tables; everything else used here is older
EXPLORER_PORT = 8470
TORCH_TIMEOUT_S = 120.0
CLOCK_STEP_S_MAX = 5.0
RELEASED_S = 1_763_000_000  # seconds since 1970 shortly before the first release: a clock behind it is wrong

TORCH_CODE = """
import json, torch
cuda = torch.cuda.is_available()
mps = not cuda and torch.backends.mps.is_available()
device = torch.cuda.get_device_name(0) if cuda else "MPS" if mps else "CPU"
print(json.dumps({"version": torch.__version__, "device": device, "cuda_build": torch.version.cuda}))
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One line: ``ok`` is fine, ``warn`` works with a drawback, ``bad`` stops `borg run`."""

    name: str
    level: Literal["ok", "warn", "bad"]
    found: str
    fix: str = ""


def all_checks(home: Path) -> list[Check]:
    """Every check, in the order in which a new user meets the things."""
    return [python(), torch(), program(), sqlite(), directory(home), disk(home), port(home), clock(home)]


def python() -> Check:
    """The interpreter. One older than 3.11 never comes so far: pip refuses to install there."""
    found = f"{platform.python_version()} ({sys.executable})"
    if sys.flags.optimize:
        return Check(
            "python", "warn", f"{found}, with -O", "Run without -O and PYTHONOPTIMIZE: assertions help."
        )
    return Check("python", "ok", found)


def torch() -> Check:
    """Whether torch can be imported, and on what it would run. A process of its own: a broken build may abort."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", TORCH_CODE],
            capture_output=True,
            text=True,
            check=False,
            timeout=TORCH_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return Check(
            "torch", "bad", f"the import took longer than {TORCH_TIMEOUT_S:.0f} s", "Is the disk very slow?"
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return Check(
            "torch", "bad", f"cannot be imported: {last}", "Install it again: python tools/install.py"
        )
    said = json.loads(done.stdout.splitlines()[-1])
    found = f"{said['version']} on {said['device']}"
    if said["cuda_build"] and said["device"] == "CPU":
        fix = "This build carries CUDA packages that nothing here can use. `make clean` and `make run` choose again."
        return Check("torch", "warn", found, fix)
    return Check("torch", "ok", found)


def program() -> Check:
    """Which program the name ``borg`` starts: BorgBackup has it too."""
    ours = Path(sys.executable).parent / "borg"
    first = shutil.which("borg")
    if first is None:
        fix = f"Call {ours}, or put {ours.parent} on the PATH."
        return Check("borg", "warn", "the name `borg` is not on the PATH", fix)
    if Path(first).resolve() == ours.resolve():
        return Check("borg", "ok", first)
    fix = "Use the name `spore-borg`, which is the same program, or put its directory first on the PATH."
    return Check(
        "borg", "warn", f"the name `borg` starts {first}, perhaps BorgBackup; this one is {ours}", fix
    )


def sqlite() -> Check:
    """SQLite's version and its full-text search."""
    with sqlite3.connect(":memory:") as memory:
        options = {row[0] for row in memory.execute("PRAGMA compile_options")}
    memory.close()
    full_text = "ENABLE_FTS5" in options
    found = f"{sqlite3.sqlite_version}, full-text search {'yes' if full_text else 'no'}"
    if sqlite3.sqlite_version_info < SQLITE_MIN or not full_text:
        wanted = ".".join(map(str, SQLITE_MIN))
        return Check("sqlite", "bad", found, f"Use a Python whose SQLite is {wanted} or newer and has FTS5.")
    return Check("sqlite", "ok", found)


def directory(home: Path) -> Check:
    """Whether the node's directory can be written, by making and removing a file in it or in its parent."""
    place = next(parent for parent in (home, *home.parents) if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check("directory", "bad", f"{place}: {error.strerror}", "Give another directory with --home.")
    return Check("directory", "ok", str(home) if place == home else f"{home} (`borg run` makes it)")


def disk(home: Path) -> Check:
    """Free room for weights and checkpoints."""
    place = next(parent for parent in (home, *home.parents) if parent.exists())
    free_bytes = shutil.disk_usage(place).free
    found = f"{free_bytes / (1 << 30):.1f} GiB free"
    if free_bytes < DISK_FREE_BYTES_MIN:
        fix = "Make room, or give a directory on another disk with --home."
        return Check("disk", "bad", found, fix)
    if free_bytes < DISK_FREE_BYTES_LOW:
        return Check(
            "disk", "warn", found, "Enough to start. `borg config set blob_budget_mb N` sets a budget."
        )
    return Check("disk", "ok", found)


def port(home: Path) -> Check:
    """Whether the explorer's port is free; taken by our own node is fine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", EXPLORER_PORT))
        except OSError:
            if control.running(home) is not None:
                return Check("port", "ok", f"{EXPLORER_PORT} is taken while this node runs")
            fix = "`borg run` takes the next free port and says which, or give one with --explorer-port."
            return Check("port", "warn", f"{EXPLORER_PORT} is taken by another program", fix)
    return Check("port", "ok", f"{EXPLORER_PORT} is free")


def clock(home: Path) -> Check:
    """Whether the clock is plausible. Epochs come from it; a node far ahead or behind is not heard."""
    now_s = time.time()
    newest = max((path.stat().st_mtime for path in home.glob("*.sqlite")), default=0.0)
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if now_s < max(RELEASED_S, newest - CLOCK_STEP_S_MAX):
        why = (
            "this node's own files are newer"
            if newest > RELEASED_S
            else "that is before this program was made"
        )
        return Check("clock", "bad", f"{found}, but {why}", "Set the clock, best by a time service (NTP).")
    return Check("clock", "ok", found)
