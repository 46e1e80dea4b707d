"""``borg queue``: what waits for verification, and for whom."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli


@cli.command("queue")
@click.option("--after", metavar="KEY", help="Go on after this key, as the end of the list before gives it.")
def command(frame: cli.Frame, after: str | None) -> None:
    """Claims that wait for evidence, most urgent first, and those just judged."""
    from explorer import pages
    from spore_borg.cli import reading

    with reading.views(frame.home) as db:
        value = reading.page_value(pages.verify(db, after=after))
    cli.output(frame, value, render)


def render(value: dict[str, Any]) -> str:
    """One line a claim; the newest verdicts below."""
    from explorer import show

    text = cli.table(
        ["priority>", "stage", "class", "author", "waits for", "why", "record"],
        [
            (
                row["priority"],
                row["stage"],
                row["hardware_class"],
                cli.who(row["author"]),
                " ".join(show.short(name) for name in row["waiting_for"][:4]),
                show.plain(row["sentence"], 80),
                show.short(row["target"]),
            )
            for row in value["waiting"]
        ],
        empty="Nothing waits for verification.",
    )
    if value["after"] is not None:
        text += f"\nmore: --after {value['after']}"
    if value["judged"]:
        judged = [
            (
                row["verdict"],
                show.plain(row["title"], 50),
                show.plain(row["reason"], 80),
                show.short(row["cid"]),
            )
            for row in value["judged"]
        ]
        text += "\n\njust judged\n" + cli.table(["verdict", "what", "why", "record"], judged)
    return text
