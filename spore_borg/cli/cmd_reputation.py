"""``borg reputation [NODE]``: the leaderboard, or one node's ledger."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli


@cli.command("reputation")
@click.argument("node", required=False)
@click.option("--before", metavar="ID", help="With NODE: go on before this ledger entry.")
@click.option("--after", metavar="KEY", help="Without NODE: go on after this key.")
def command(frame: cli.Frame, node: str | None, before: str | None, after: str | None) -> None:
    """Trust of every node, or with NODE the ledger that it came from."""
    from explorer import pages
    from spore_borg.cli import reading

    with reading.views(frame.home) as db:
        if node is None:
            value = reading.page_value(pages.reputation(db, after=after))
        else:
            value = reading.page_value(pages.node(db, reading.node_name(db, node), before=before))
    cli.output(frame, value, render_nodes if node is None else render_ledger)


def render_nodes(value: dict[str, Any]) -> str:
    """The leaderboard; keys that are dead below it."""
    from explorer import show

    headings = [
        "trust>",
        "influence>",
        "node",
        "name",
        "class",
        "role",
        "experiments>",
        "attestations>",
        "standing",
    ]
    text = cli.table(
        headings,
        [
            (
                show.trust(row["trust"]),
                show.percent_ppm(row["influence_ppm"]),
                show.short(row["node"]["name"]),
                show.plain(row["node"]["display"], 24),
                row["hardware_class"],
                "root" if row["root"] else row["role"],
                row["experiments"],
                row["attestations"],
                f"banned by {show.short(row['banned_cause'])}" if row["banned"] else "",
            )
            for row in [*value["leaders"], *value["dead"]]
        ],
        empty="No nodes yet.",
    )
    return text if value["after"] is None else f"{text}\nmore: --after {value['after']}"


def render_ledger(value: dict[str, Any]) -> str:
    """The node, then its ledger, newest entry first."""
    from explorer import show

    row = value["standing"]
    head = cli.pairs(
        [
            ("node", row["node"]["name"]),
            ("name", show.plain(row["node"]["display"], 64) or show.NONE),
            ("class", row["hardware_class"]),
            ("trust", show.trust(row["trust"])),
            ("frauds", row["frauds"]),
            ("banned", f"by {row['banned_cause']}" if row["banned"] else "no"),
        ]
    )
    entries = [
        (
            e["round"],
            e["rule"],
            show.amount(e["amount"]),
            show.trust(e["total"]),
            e["sentence"],
            show.short(e["cause"]),
        )
        for e in value["ledger"]
    ]
    headings = ["round>", "rule", "amount>", "total>", "why", "cause"]
    text = f"{head}\n\n{cli.table(headings, entries, empty='No entries yet.')}"
    return text if value["before"] is None else f"{text}\nolder: --before {value['before']}"
