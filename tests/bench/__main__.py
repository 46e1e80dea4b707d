"""Run the measurements of this folder, each in a process of its own: ``python -m tests.bench [NAME …]``.

Each prints what it measured with its noise; the exit status is 1 when one of them failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def scripts(names: list[str]) -> list[Path]:
    """The measurements of these names, or all of them: files that do something when they are run."""
    every = [
        path
        for path in sorted(HERE.glob("*.py"))
        if not path.name.startswith("_") and 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]
    unknown = set(names) - {path.stem for path in every}
    if unknown:
        known = ", ".join(path.stem for path in every)
        raise SystemExit(f"no measurement {', '.join(sorted(unknown))}; there are: {known}")
    return [path for path in every if not names or path.stem in names]


def main(names: list[str]) -> int:
    """Run them one after another, so that none disturbs the next."""
    print(
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}", flush=True
    )
    failed = []
    for path in scripts(names):
        print(f"\n== {path.stem}", flush=True)
        start = time.monotonic()
        if subprocess.run([sys.executable, str(path)], check=False, cwd=HERE.parents[1]).returncode:
            failed.append(path.stem)
        print(f"   ({time.monotonic() - start:.0f} s)", flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
