"""CPU time of ``borg --help`` against a bare click program: ``python -m tests.bench.cli_help``.

Prints the median and the spread of user + system time of whole processes, in ms, and the ratio.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

from tests.bench._rows import emit

RUNS = 25
BARE = "import click; click.command()(click.option('--json', is_flag=True)(lambda json: None))(['--help'])"
BORG = "from spore_borg.cli import main; main(['--help'])"


def cpu_ms(code: str) -> float:
    """User and system time of one interpreter that runs the code, in ms."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True, env=dict(os.environ))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    """Measure alternately, so that a busy machine hits both alike."""
    pairs = [(cpu_ms(BARE), cpu_ms(BORG)) for _ in range(RUNS)]
    for name, values in zip(("bare click", "borg --help"), zip(*pairs, strict=True), strict=True):
        low, _, high = statistics.quantiles(values, n=4)
        print(
            f"{name:12} {statistics.median(values):6.1f} ms  (quartiles {low:.1f} to {high:.1f}, {RUNS} runs)"
        )
    emit("help_ratio", [borg / bare for bare, borg in pairs])


if __name__ == "__main__":
    main()
