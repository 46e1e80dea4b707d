"""``borg log``: the newest records."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli

ROWS_MAX = 50  # the rows of one of the explorer's pages


@cli.command("log")
@click.option(
    "-n",
    "--limit",
    metavar="N",
    type=click.IntRange(1, ROWS_MAX),
    default=20,
    show_default=True,
    help="How many.",
)
@click.option("--kind", default="all", help="Only this kind, for example experiment or attest_reveal.")
@click.option("--task", metavar="NAME", help="Only experiments on this task (name or id).")
@click.option("--class", "hardware", metavar="CLASS", help="Only experiments of this hardware class.")
@click.option(
    "--author", metavar="NODE", help="Only records of this node (its name, or the beginning of it)."
)
@click.option("--verdict", help="Only experiments with this verdict of the others, for example refuted.")
@click.option(
    "--outcome", help="Only experiments with this outcome in their author's word, for example kept."
)
@click.option("--search", metavar="WORDS", help="Only experiments that hold these words.")
@click.option("--before", metavar="SEQ", type=click.IntRange(min=1), help="Go on before this number.")
def command(
    frame: cli.Frame, limit: int, search: str | None, before: int | None, **asked: str | None
) -> None:
    """The newest records, newest first."""
    from explorer import pages
    from spore_borg.cli import reading

    asked["class"] = asked.pop("hardware")
    asked["q"] = search
    asked["before"] = None if before is None else str(before)
    with reading.views(frame.home) as db:
        if asked["author"]:
            asked["author"] = reading.node_name(db, asked["author"])
        if asked["kind"] == "all" and any(
            asked[name] for name in ("task", "class", "verdict", "outcome", "q")
        ):
            asked["kind"] = "experiment"  # only these have them
        value = reading.page_value(pages.records(db, **asked))
    if len(value["rows"]) > limit:
        value["rows"] = value["rows"][:limit]
        value["before"] = value["rows"][-1]["seq"]
    cli.output(frame, value, render)


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
                cli.who(row["author"]),
                row["outcome"],
                row["verdict"],
                "" if row["metric"] is None else show.metric(row["metric"]),
                show.plain(row["title"], 60),
                show.short(row["cid"]),
            )
            for row in value["rows"]
        ],
        empty="No such records yet.",
    )
    return text if value["before"] is None else f"{text}\nolder: --before {value['before']}"
