"""``borg queue``: what waits for verification, and for whom."""

from __future__ import annotations

import json
from typing import Any

import click

from spore_borg.cli import frame as cli
from spore_borg.cli import reading


@cli.command("queue")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many."
)
def command(frame: cli.Frame, limit: int) -> None:
    """Claims that wait for evidence, most urgent first."""
    with reading.views(frame.home) as views:
        rows = reading.rows(views, reading.QUEUE, limit=limit)
    for row in rows:
        for name in ("parts", "drawn", "waiting_for"):
            row[name] = json.loads(row[name])
    cli.output(frame, {"queue": rows}, render)


def render(value: dict[str, Any]) -> str:
    """One line a claim."""
    from explorer import show

    return cli.table(
        ["priority>", "stage", "class", "author", "waits for", "why", "record"],
        [
            (
                row["priority"],
                row["stage"],
                row["class"],
                show.short(row["author"]),
                " ".join(show.short(name) for name in row["waiting_for"][:4]),
                show.plain(row["sentence"], 80),
                show.short(row["target"]),
            )
            for row in value["queue"]
        ],
        empty="Nothing waits for verification.",
    )
