"""``borg reputation [NODE]``: the leaderboard, or one node's ledger."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli
from spore_borg.cli import reading

LEDGER = "SELECT * FROM ledger WHERE node = :node ORDER BY id DESC LIMIT :limit"


@cli.command("reputation")
@click.argument("node", required=False)
@click.option(
    "-n", "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many lines."
)
def command(frame: cli.Frame, node: str | None, limit: int) -> None:
    """Trust of every node, or with NODE the ledger that it came from."""
    with reading.views(frame.home) as views:
        if node is None:
            cli.output(frame, {"nodes": reading.rows(views, reading.NODES, limit=limit)}, render_nodes)
            return
        row = reading.node(views, node)
        ledger = reading.rows(views, LEDGER, node=row["name"], limit=limit)
    cli.output(frame, {"node": row, "ledger": ledger}, render_ledger)


def render_nodes(value: dict[str, Any]) -> str:
    """The leaderboard."""
    from explorer import show

    return cli.table(
        [
            "trust>",
            "influence>",
            "node",
            "name",
            "class",
            "role",
            "experiments>",
            "attestations>",
            "standing",
        ],
        [
            (
                show.trust(row["trust"]),
                show.percent_ppm(row["influence_ppm"]),
                show.short(row["name"]),
                show.plain(row["display"], 24),
                row["class"],
                "root" if row["root"] else row["role"],
                row["experiments"],
                row["attestations"],
                f"banned by {show.short(row['banned_cause'])}" if row["banned"] else "",
            )
            for row in value["nodes"]
        ],
        empty="No nodes yet.",
    )


def render_ledger(value: dict[str, Any]) -> str:
    """The node, then its ledger, newest entry first."""
    from explorer import show

    row = value["node"]
    head = cli.pairs(
        [
            ("node", row["name"]),
            ("trust", show.trust(row["trust"])),
            ("frauds", row["frauds"]),
            ("class", row["class"]),
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
    ledger = cli.table(
        ["round>", "rule", "amount>", "total>", "why", "cause"], entries, empty="No entries yet."
    )
    return f"{head}\n\n{ledger}"
