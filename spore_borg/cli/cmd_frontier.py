"""``borg frontier``: the best accepted result per task and hardware class; ``--fetch`` brings it here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spore_borg.cli import frame as cli
from spore_borg.cli import reading


@cli.command("frontier")
@click.option("--task", metavar="NAME", help="Only this task (name or id).")
@click.option("--class", "hardware", metavar="CLASS", help="Only this hardware class.")
@click.option(
    "--fetch",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write weights, recipe and proof bundle of the best result to DIR; `borg verify DIR` checks it.",
)
def command(frame: cli.Frame, task: str | None, hardware: str | None, fetch: Path | None) -> None:
    """The best accepted result per task and hardware class.

    Classes stand side by side and are never ranked together. `confirmed`: other nodes' evidence; `solo`: this node
    is alone in its mesh, and nobody else has checked it.
    """
    if fetch is not None:
        from spore_borg.node import bundle

        cli.output(frame, bundle.fetch(frame.home, fetch, task=task, hardware=hardware), cli_fetched)
        return
    with reading.views(frame.home) as views:
        rows = reading.frontier(views)
    chosen = [
        row
        for row in rows
        if task in (None, row["task"], row["task_name"]) and hardware in (None, row["class"])
    ]
    cli.output(frame, {"frontier": chosen}, render)


def cli_fetched(value: dict[str, Any]) -> str:
    """What was written, and how to check it."""
    files = "\n".join(f"  {name}" for name in value.get("files", []))
    return f"{value['dir']}\n{files}\nCheck it with: borg verify {value['dir']}"


def render(value: dict[str, Any]) -> str:
    """The table."""
    from explorer import show

    return cli.table(
        [
            "task",
            "class",
            "best>",
            "unit",
            "gain>",
            "σ>",
            "steps>",
            "runs>",
            "how verified",
            "author",
            "record",
        ],
        [
            (
                row["task_name"],
                row["class"],
                show.metric(row["metric"]),
                row["unit"],
                show.gain(row["metric_first"] - row["metric"]),
                show.metric(row["sigma"]),
                row["step"],
                row["runs"],
                how(row),
                row["display"] or show.short(row["author"]),
                row["cid"],
            )
            for row in value["frontier"]
        ],
        empty="No accepted result yet. `borg run` makes some; `borg queue` shows what waits for evidence.",
    )


def how(row: dict[str, Any]) -> str:
    """How a frontier step was verified, in words."""
    if row["status"] == "solo":
        return "solo: unverified by others"
    tiers = " ".join(f"{tier}×{count}" for tier, count in sorted(row["evidence"].items()))
    return f"confirmed by {row['verdicts']}" + (f" ({tiers})" if tiers else "")
