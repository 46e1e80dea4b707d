"""``borg failures``: what crashed runs have in common, and what fixed it."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli


@cli.command("failures")
@click.argument("words", nargs=-1)
@click.option("--most", is_flag=True, help="Those with the most runs first, instead of the newest.")
@click.option(
    "--after", "key", metavar="KEY", help="Go on after this key, as the end of the list before gives it."
)
def command(frame: cli.Frame, words: tuple[str, ...], most: bool, key: str | None) -> None:
    """Failure signatures: crashed runs by what their error says, with what they share and what fixed them.

    With WORDS, only those whose error, recipe fields or hardware classes have all of them. With one signature, that
    one and its runs.
    """
    from explorer import pages, show
    from spore_borg.cli import reading

    with reading.views(frame.home) as db:
        if len(words) == 1 and show.is_signature(words[0]):
            value = reading.page_value(pages.failure(db, words[0], before=key))
            cli.output(frame, value, render_one)
            return
        order = {"before": None, "after": key} if most else {"before": key, "after": None}
        page = pages.failures(db, q=" ".join(words), sort="most" if most else "recent", **order)
        value = reading.page_value(page)
    cli.output(frame, value, render)


def render(value: dict[str, Any]) -> str:
    """One line a signature."""
    from explorer import show

    text = cli.table(
        ["signature", "runs>", "classes", "in common", "fixed by", "error"],
        [
            (
                row["signature"],
                row["runs"],
                " ".join(f"{show.plain(name, 24)}×{runs}" for name, runs in row["classes"][:3]),
                ", ".join(show.plain(item["field"], 24) for item in row["fields"][:3]),
                show.short(row["fixed_by"]),
                show.plain(row["text"], 100),
            )
            for row in value["rows"]
        ],
        empty="No failure has all of these words." if value["q"] else "No run has crashed yet.",
    )
    if value["next"] is not None:
        text += f"\nmore: --after {value['next']}"
    return text


def render_one(value: dict[str, Any]) -> str:
    """One signature, its fields and its runs."""
    from explorer import show

    one = value["failure"]
    lines = [
        f"{one['signature']}  {show.plain(one['text'], 200)}",
        f"{show.plural(one['runs'], 'run')} of {show.plural(one['authors'], 'author')}, "
        f"{show.scaled(one['flops'], 'FLOP')} spent; {one['fixed_runs']} fixed",
        f"newest: {show.plain(one['example'], 400)}",
        "",
    ]
    for item in one["fields"]:
        values = ", ".join(show.recipe_value(item["field"], v) for v in item["values"])
        how = f"changed by {item['changed']}" if item["changed"] else "in all runs"
        lines.append(f"  {show.plain(item['field'], 40)}: {values} ({how})")
    rows = [
        (
            show.short(run["run"]["cid"]),
            show.changed(run["run"]["changed"]) or show.plain(run["run"]["title"], 60),
            cli.who(run["run"]["author"]),
            show.short(run["fixed_by"]),
        )
        for run in value["runs"]
    ]
    text = "\n".join(lines) + "\n" + cli.table(["record", "change", "author", "fixed by"], rows)
    return text + (f"\nmore: --after {value['before']}" if value["before"] is not None else "")
