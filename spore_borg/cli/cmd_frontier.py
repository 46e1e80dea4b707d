"""``borg frontier``: the best accepted result per task and hardware class; ``--fetch`` brings it here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spore_borg.cli import frame as cli

if TYPE_CHECKING:
    from explorer.db import Db


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

        cli.output(frame, bundle.fetch(frame.home, fetch, task=task, hardware=hardware), render_fetched)
        return
    cli.output(frame, value_of(frame, task, hardware), render)


def value_of(frame: cli.Frame, task: str | None = None, hardware: str | None = None) -> dict[str, Any]:
    """The frontier page, narrowed, with ``evidence``: passed attestations per tier of each row's record."""
    from explorer import pages
    from spore_borg.cli import reading

    with reading.views(frame.home) as db:
        value = reading.page_value(pages.frontier(db))
        value["rows"] = [
            row
            for row in value["rows"]
            if task in (None, row["task"]["cid"], row["task"]["name"])
            and hardware in (None, row["hardware_class"])
        ]
        value["evidence"] = {row["cid"]: reading.evidence(db, row["cid"]) for row in value["rows"]}
        value["read"] = {row["cid"]: read_of(db, row["cid"]) for row in value["rows"]}
    return value


def read_of(db: Db, cid: str) -> dict[str, int] | None:
    """What the lattice of an experiment has read; None for other experiments, and where its file is not here."""
    from explorer.pages.common import loads_dict
    from explorer.pages.reading import reading

    row = db.one("experiment", cid=cid)
    found = None if row is None else reading(db.home, row["weights"], loads_dict(row["recipe"]))
    return None if found is None else dataclasses.asdict(found)


def render_fetched(value: dict[str, Any]) -> str:
    """What was written, and how to check it."""
    files = "\n".join(f"  {name}" for name in value.get("files", []))
    return f"{value['dir']}\n{files}\nCheck it with: borg verify {value['dir']}"


def render(value: dict[str, Any]) -> str:
    """The table."""
    from explorer import show

    headings = [
        "task",
        "class",
        "best>",
        "unit",
        "gain>",
        "σ>",
        "steps>",
        "runs>",
        "verification",
        "author",
        "record",
    ]
    return cli.table(
        headings,
        [
            (
                row["task"]["name"],
                row["hardware_class"],
                show.metric(row["metric"]),
                unit(row),
                show.gain(row["gain"]),
                show.metric(row["task"]["sigma"]),
                row["steps"],
                row["runs"],
                how(row, value["evidence"]),
                cli.who(row["author"]),
                row["cid"],
            )
            for row in value["rows"]
        ],
        empty="No accepted result yet. `borg run` makes some; `borg queue` shows what waits for evidence.",
    ) + "".join(_read_line(row, value["read"].get(row["cid"])) for row in value["rows"])


def _read_line(row: dict[str, Any], read: dict[str, int] | None) -> str:
    """What a lattice has seen of its text, below the table."""
    if read is None:
        return ""
    from explorer import show

    return (
        f"\n{show.plain(row['task']['name'], 40)} has read {read['characters']:,} characters: about {read['runs']:,} ± "
        f"{read['runs_error']:,} different runs of four, {read['new_runs']:,} of them new in the best result."
    )


def unit(row: dict[str, Any]) -> str:
    """The unit of a metric as it is shown: records count in nano-units."""
    return str(row["task"]["unit"]).removeprefix("nano-")


def how(row: dict[str, Any], evidence: dict[str, dict[str, int]]) -> str:
    """How a frontier step was verified, in words."""
    if row["status"] == "solo":
        return "solo: unverified by others"
    tiers = " ".join(f"{tier}×{count}" for tier, count in sorted(evidence.get(row["cid"], {}).items()))
    return f"confirmed by {row['verdicts']}" + (f" ({tiers})" if tiers else "")
