"""``borg log``: the newest records."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli
from spore_borg.cli import reading

SEQ_MAX = (1 << 63) - 1


@cli.command("log")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many."
)
@click.option("--kind", metavar="KIND", help="Only this kind, for example experiment or attest_reveal.")
@click.option("--before", metavar="SEQ", type=int, default=SEQ_MAX, help="Go on before this number.")
def command(frame: cli.Frame, limit: int, kind: str | None, before: int) -> None:
    """The newest records, newest first."""
    with reading.views(frame.home) as views:
        records = reading.rows(views, reading.LOG, kind=kind, before=before, limit=limit)
    following = records[-1]["seq"] if len(records) == limit else None
    cli.output(frame, {"records": records, "next_before": following}, render)


def render(value: dict[str, Any]) -> str:
    """One line a record."""
    from explorer import show

    text = cli.table(
        ["seq>", "epoch>", "kind", "author", "outcome", "verdict", "metric>", "what", "record"],
        [
            (
                row["seq"],
                row["epoch"],
                row["kind"],
                row["display"] or show.short(row["author"]),
                row["outcome"],
                row["verdict"],
                "" if row["metric"] is None else show.metric(row["metric"]),
                show.plain(row["title"], 60),
                show.short(row["cid"]),
            )
            for row in value["records"]
        ],
        empty="No records yet. `borg run` makes some.",
    )
    more = value["next_before"]
    return text if more is None else f"{text}\nolder: borg log --before {more}"
