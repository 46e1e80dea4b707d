"""What the explorer's pages cost at 100,000 records: CPU, SQLite VM steps, compressed bytes."""

from __future__ import annotations

import gzip
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from explorer import pages, render
from explorer.db import Db
from explorer.values import Page
from tests.bench._rows import emit
from tests.pages import fixtures
from tests.pages.test_budgets import cost

RECORDS = 100_000
REPETITIONS = 20


def cpu_ms(db: Db, make: Callable[[Db], Page]) -> float:
    """CPU of one page as a value, and for the overview also as HTML."""
    began_s = time.process_time()
    page = make(db)
    if make is pages.overview:
        render.html(page, "/")
    return 1e3 * (time.process_time() - began_s)


def main() -> None:
    """The frontier as a value, and the overview with its styles and script: what a first visit loads."""
    with tempfile.TemporaryDirectory() as directory:
        home = fixtures.mesh(Path(directory), RECORDS)
        note = f"at {RECORDS:,} records"
        db = Db(home)
        for make in (pages.frontier, pages.overview):  # templates and statements are prepared once a process
            cpu_ms(db, make)
        steps, _, _ = cost(home, pages.frontier)
        emit(
            "frontier_ms",
            [cpu_ms(db, pages.frontier) for _ in range(REPETITIONS)],
            f"{note}; {steps:,} VM steps; the whole page as a value: every task and class",
        )
        steps, html_kib, _ = cost(home, pages.overview)
        files = sum(len(gzip.compress(raw, 6)) for raw in render.static_files().values())
        emit("overview_kb", [html_kib * 1.024 + files / 1e3], f"{note}; with its script and styles")
        emit("overview_steps", [steps / 1e3], note)
        emit("overview_ms", [cpu_ms(db, pages.overview) for _ in range(REPETITIONS)], note)
        db.close()


if __name__ == "__main__":
    main()
