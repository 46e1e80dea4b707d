"""``borg bench``: every measurement of this folder, each in a process of its own, ours and Spore's in turn.

    python -m tests.bench [NAME …] [--no-peer] [--docs] [--json]
    python -m tests.bench absorb [--models NAME,…] [--steps T,…] [--docs] [--json]

Prints a table with its noise and writes every repetition to ``tests/bench/results/latest.json``; ``--docs`` also writes
``docs/reference/benchmarks.md``; with names, the page keeps the other rows of the last run and says so. Exit status 1:
a measurement failed. A target that is missed is a result, no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.bench._peer import PeerUnavailable, python
from tests.bench._report import Report, about
from tests.bench._rows import MARK, MISSING

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCS = ROOT / "docs" / "reference" / "benchmarks.md"
COMMAND = "borg bench --docs"
SCRIPTS = ("cli_help", "records", "ingest", "spread", "replay", "live", "sync", "pages", "merge", "infer")
PEER_SCRIPTS = ("ingest", "spread", "sync", "pages")
SCRIPT_LIMIT_S = 240
LONG_S = {"merge": 480}  # mergekit takes half a minute for each repetition
LIMIT_S = 1_200  # what has not begun by then is left out, and the report says so


def take(report: Report, side: str, output: str) -> None:
    """The measurements in a script's output, and what it could not measure."""
    for line in output.splitlines():
        if line.startswith(MARK):
            report.add(side, json.loads(line))
        elif line.startswith(MISSING):
            report.missing.append(json.loads(line)["missing"])


def measure(report: Report, side: str, command: list[str], limit_s: float) -> None:
    """Run one script and take in its lines; what goes wrong is written into the report."""
    what = f"{side} {' '.join(command[1:])}".replace(str(HERE) + os.sep, "")
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raw = error.stdout or b""
        take(report, side, raw if isinstance(raw, str) else raw.decode(errors="replace"))
        report.missing.append(f"{what}: not done within {limit_s:.0f} s")
        return
    take(report, side, done.stdout)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        report.missing.append(f"{what}: {last}")
        print(done.stderr, file=sys.stderr)


def run(names: list[str], *, peer: bool) -> Report:
    """The measurements of these names, or all of them."""
    began_s = time.monotonic()
    report = Report(about())
    other: Path | None = None
    if peer and (not names or set(names) & set(PEER_SCRIPTS)):
        print("prepares Spore", file=sys.stderr, flush=True)
        try:
            other = python(ROOT)
        except PeerUnavailable as error:
            report.missing.append(str(error))
    elif not peer:
        report.missing.append("Spore: switched off")
    began_s = time.monotonic()
    for name in SCRIPTS:
        if names and name not in names:
            continue
        sides = [("ours", [sys.executable, "-m", f"tests.bench.{name}"])]
        if other is not None and name in PEER_SCRIPTS:
            sides.append(("Spore", [str(other), str(HERE / "peer" / "spore_mesh.py"), name]))
        for side, command in sides:
            left_s = LIMIT_S - (time.monotonic() - began_s)
            if left_s <= 0:
                report.missing.append(f"{side} {name}: no time left of {LIMIT_S} s")
                continue
            print(f"{name}, {side}", file=sys.stderr, flush=True)
            measure(report, side, command, min(LONG_S.get(name, SCRIPT_LIMIT_S), left_s))
    report.about["duration"] = f"{time.monotonic() - began_s:.0f} s"
    return report


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    if arguments[:1] == ["absorb"]:  # a quarter of an hour of its own, with a page of its own
        return subprocess.run(
            [sys.executable, "-m", "tests.bench.absorb", *arguments[1:]], cwd=ROOT, check=False
        ).returncode
    parser = argparse.ArgumentParser(prog="borg bench", description="Measure, with noise; see the module.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCRIPTS))
    parser.add_argument("--no-peer", action="store_true", help="without Spore; also SPORE_BORG_BENCH_PEER=0")
    parser.add_argument("--docs", action="store_true", help="write docs/reference/benchmarks.md")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.names) - set(SCRIPTS))
    if unknown:
        parser.error(f"no measurement {', '.join(unknown)}; there are {', '.join(SCRIPTS)}")
    report = run(given.names, peer=not given.no_peer and os.environ.get("SPORE_BORG_BENCH_PEER") != "0")
    results = HERE / "results" / "latest.json"
    if given.names and given.docs and results.exists():
        try:
            report.keep(json.loads(results.read_text(encoding="utf-8")), given.names)
        except ValueError:  # of a run that was ended by force; what was measured now is not lost for it
            print(
                f"{results.name} is damaged: the page has the new rows only; `{COMMAND}` measures all",
                file=sys.stderr,
            )
    results.parent.mkdir(exist_ok=True)
    fresh = results.with_suffix(".new")
    fresh.write_text(json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fresh.replace(results)
    print(results.read_text(encoding="utf-8") if given.json else report.text())
    if given.docs:
        DOCS.write_text(report.markdown(COMMAND), encoding="utf-8")
    return 1 if any(line.startswith(("ours", "Spore ")) for line in report.missing) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
