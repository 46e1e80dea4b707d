"""The first view of several dashboards with many runs: requests, bytes and time, in a real Chromium.

    python -m tests.bench.dashboards [ours spore trackio aim mlflow optuna] [--runs 100000] [--venvs DIR]

Every tool is installed in an environment of its own below ``--venvs`` (once), filled with the same number of runs (or
as many as it takes in the time of ``peer/dashboards_fill.py``: the table says how many), served on loopback, and opened
in a fresh Chromium at 1280 × 900. *View* is the time until runs are on the page (the condition is in ``THERE``).
*Requests* and *KB* are what the browser fetched until nothing more came for three seconds after that, and *server CPU*
is what the server's process group spent meanwhile. What cannot be installed or shows no runs in a minute is named so.
Spore's page takes a script from another host, which is not asked here: its row counts the page and the four answers
that the page fetches, without that script and without drawing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import _peer
from tests.pages import fixtures
from tests.pages.browser import Browser

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = {
    "mlflow": ("mlflow>=3,<4",),
    "trackio": ("trackio>=0.24,<1",),
    "optuna": ("optuna-dashboard>=0.17,<1", "optuna>=4.4,<6"),
    "aim": ("aim>=3.29,<4",),
}
TOOLS = ("ours", "spore", "trackio", "aim", "mlflow", "optuna")
FILL_LIMIT_S, START_LIMIT_S, QUIET_S, VIEW_LIMIT_S = 400.0, 150.0, 3.0, 60.0
LOOK = """
const all = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
return {requests: all.length, bytes: all.reduce((n, e) => n + e.transferSize, 0), there: Boolean(THERE)};
"""
WATCH = "performance.setResourceTimingBufferSize(20000)"
TEXT = "document.body && /%s/.test(document.body.innerText)"
THERE = {  # true when runs are on the page
    "ours": "document.querySelector('table.ex tbody tr td a')",
    "trackio": TEXT % r"run-\d",
    "aim": TEXT % r"run \d",
    "mlflow": TEXT % r"run \d",
    "optuna": "document.querySelector('.scatterlayer .trace, .gl-container canvas[width]')",
}


class Unavailable(Exception):
    """A tool cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Served:
    """A running dashboard."""

    process: subprocess.Popen[str]
    url: str
    runs: int
    version: str


@dataclass(frozen=True)
class Seen:
    """One row of the table."""

    tool: str
    runs: int
    requests: int
    kilobytes: float
    view_s: float | None  # None: not within the limit
    cpu_s: float


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def quietly(command: list[str], limit_s: float, **more: Any) -> str:
    """Run a command; gives its output.

    Raises:
        Unavailable: it failed, with its last words.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=True, **more)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "no output").strip().splitlines()[-1]
        raise Unavailable(last) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    return done.stdout


def environment(tool: str, venvs: Path) -> Path:
    """The ``bin`` of an environment that has the tool."""
    home = venvs / f"v-{tool}"
    if not (home / "bin" / "pip").exists():
        quietly([sys.executable, "-m", "venv", str(home)], 120)
    found = quietly([str(home / "bin" / "pip"), "list", "--format", "freeze"], 120)
    if f"\n{PACKAGES[tool][0].partition('>')[0]}==" not in f"\n{found}":
        quietly([str(home / "bin" / "pip"), "install", "--quiet", *PACKAGES[tool]], FILL_LIMIT_S)
    return home / "bin"


def start(command: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A server in a process group of its own."""
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        env={**os.environ, **(env or {})},
    )  # fmt: skip


def stop(process: subprocess.Popen[str]) -> None:
    """End a server and what it started."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if process.stdout is not None:
        process.stdout.close()


def await_answer(process: subprocess.Popen[str], url: str) -> None:
    """Wait until a server answers."""
    until_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until_s:
        if process.poll() is not None:
            raise Unavailable(f"its server ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=30):
                return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.3)
    raise Unavailable(f"its server does not answer within {START_LIMIT_S:.0f} s")


def ours(folder: Path, count: int, _venvs: Path) -> Served:
    """This explorer."""
    home = fixtures.mesh(folder, count * 4 // 3)  # three in four records are experiments
    process = start([sys.executable, "-m", "explorer", "--home", str(home), "--port", "0", "--json"])
    assert process.stdout is not None
    return Served(process, json.loads(process.stdout.readline())["url"], count, "")


def spore(_folder: Path, count: int, venvs: Path) -> Served:
    """Spore's explorer."""
    try:
        python = _peer.python(venvs)
    except _peer.PeerUnavailable as error:
        raise Unavailable(str(error)) from error
    quietly([str(python), "-m", "pip", "install", "--quiet", "uvicorn>=0.34,<1"], FILL_LIMIT_S)
    port = free_port()
    process = start([str(python), str(HERE / "peer" / "spore_pages.py"), str(port), str(count)])
    assert process.stdout is not None
    made = json.loads(process.stdout.readline() or '{"runs": 0}')["runs"]
    return Served(process, f"http://127.0.0.1:{port}/", made, _peer.VERSION)


def other(tool: str) -> Callable[[Path, int, Path], Served]:
    """A tool with an environment of its own."""

    def serve(folder: Path, count: int, venvs: Path) -> Served:
        place, port = environment(tool, venvs), str(free_port())
        env = {"TRACKIO_DIR": str(folder), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False",
               "GRADIO_SERVER_PORT": port, "AIM_UI_TELEMETRY_ENABLED": "0", "DO_NOT_TRACK": "1"}  # fmt: skip
        fill = [
            str(place / "python"),
            str(HERE / "peer" / "dashboards_fill.py"),
            tool,
            str(folder),
            str(count),
        ]
        said = quietly(fill, FILL_LIMIT_S, env={**os.environ, **env})
        commands = {
            "mlflow": ["server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--host", "127.0.0.1",
                       "--port", port, "--workers", "1"],
            "trackio": ["show", "--project", "bench"],
            "optuna": [f"sqlite:///{folder}/optuna.db", "--port", port],
            "aim": ["up", "--repo", str(folder), "--host", "127.0.0.1", "--port", port, "--yes"],
        }  # fmt: skip
        views = {"mlflow": "#/experiments/1/runs", "trackio": "?selected_project=bench", "aim": "runs",
                 "optuna": "dashboard/studies/1"}  # fmt: skip
        name = "optuna-dashboard" if tool == "optuna" else tool
        process = start([str(place / name), *commands[tool]], env)
        runs = json.loads(said.strip().splitlines()[-1])["runs"]
        return Served(process, f"http://127.0.0.1:{port}/{views[tool]}", runs, "")

    return serve


def group_cpu_s(group: int) -> float:
    """CPU time of a process group."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def look(tool: str, url: str, picture: Path | None) -> tuple[dict[str, float], float | None]:
    """Open an address in a fresh browser: what it fetched, and after how many seconds runs were on the page."""
    browser = Browser()
    try:
        browser.look(1280, 900)
        browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        code = LOOK.replace("THERE", THERE[tool])
        began_s = changed_s = time.monotonic()
        browser.js(f"location.href = {json.dumps(url)}")
        seen: dict[str, float] = {}
        view_s: float | None = None
        while True:
            now_s = time.monotonic()
            found = browser.js(code)
            assert isinstance(found, dict)
            if found["there"] and view_s is None:
                view_s, changed_s = now_s - began_s, now_s
            if found["requests"] != seen.get("requests"):
                changed_s = now_s
            seen = found
            quiet = view_s is not None and now_s - changed_s > QUIET_S
            if quiet or now_s - began_s > VIEW_LIMIT_S:
                break
            time.sleep(0.1)
        if picture is not None:
            browser.screenshot(picture, full=False)
        return seen, view_s
    finally:
        browser.close()


def fetch(base: str) -> tuple[dict[str, float], float | None]:
    """What Spore's page fetches before it can draw, one after the other; as :func:`look`."""
    began_s, size, done = time.monotonic(), 0, 0
    for path in ("", "api/stat", "api/graph", "api/frontier", "api/leaderboard"):
        left_s = VIEW_LIMIT_S - (time.monotonic() - began_s)
        try:
            with urllib.request.urlopen(base + path, timeout=max(1.0, left_s)) as answer:
                size += len(answer.read())
        except OSError:
            return {"requests": done, "bytes": size}, None
        done += 1
    return {"requests": done, "bytes": size}, time.monotonic() - began_s


def measure(tool: str, count: int, venvs: Path, pictures: Path | None) -> Seen:
    """One tool.

    Raises:
        Unavailable: it cannot be measured.
    """
    make = {"ours": ours, "spore": spore}.get(tool) or other(tool)
    with tempfile.TemporaryDirectory(prefix=f"dashboard-{tool}-") as folder:
        served = make(Path(folder), count, venvs)
        try:
            await_answer(
                served.process, f"{served.url}about" if tool == "ours" else served.url.partition("#")[0]
            )
            before_s = group_cpu_s(served.process.pid)
            try:
                picture = None if pictures is None else pictures / f"{tool}.png"
                seen, view_s = fetch(served.url) if tool == "spore" else look(tool, served.url, picture)
            except (AssertionError, TimeoutError, OSError) as error:
                raise Unavailable(
                    f"at {served.runs:,} runs its page does not load within a minute"
                ) from error
            cpu = group_cpu_s(served.process.pid) - before_s
        finally:
            stop(served.process)
    return Seen(tool, served.runs, int(seen["requests"]), seen["bytes"] / 1e3, view_s, cpu)


def main() -> None:
    """Measure, print a table in Markdown."""
    parser = argparse.ArgumentParser(description="Dashboards with many runs; see the module.")
    parser.add_argument("tools", nargs="*", choices=[[], *TOOLS], metavar="TOOL", help=", ".join(TOOLS))
    parser.add_argument("--runs", type=int, default=100_000, help="runs in each (100000)")
    parser.add_argument(
        "--venvs", type=Path, default=ROOT / ".venv-dashboards", help="where tools are installed"
    )
    parser.add_argument("--pictures", type=Path, help="write a screenshot of each there")
    options = parser.parse_args()
    options.venvs.mkdir(parents=True, exist_ok=True)
    print("| tool | runs | requests | KB | view, s | server CPU, s |\n|---|---:|---:|---:|---:|---:|")
    for tool in options.tools or TOOLS:
        try:
            row = measure(tool, options.runs, options.venvs, options.pictures)
        except Unavailable as error:
            print(f"| {tool} | – | not measured: {error} | | | |", flush=True)
            continue
        view = f"over {VIEW_LIMIT_S:.0f}" if row.view_s is None else f"{row.view_s:.1f}"
        counted = f"{row.requests:,} | {row.kilobytes:,.0f} | {view} | {row.cpu_s:.2f}"
        print(f"| {tool} | {row.runs:,} | {counted} |", flush=True)


if __name__ == "__main__":
    main()
