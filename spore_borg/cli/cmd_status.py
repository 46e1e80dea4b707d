"""``borg status``: where this node and its mesh stand."""

from __future__ import annotations

from typing import Any

from spore_borg.cli import control, reading
from spore_borg.cli import frame as cli


@cli.command("status")
def command(frame: cli.Frame) -> None:
    """Where this node and its mesh stand. Works with and without a running node."""
    running = control.running(frame.home)
    with reading.views(frame.home) as views:
        meta = reading.meta(views)
        waiting = views.execute("SELECT count(*) FROM queue").fetchone()[0]
        nodes = views.execute("SELECT count(*) FROM node").fetchone()[0]
        best = reading.frontier(views)
    value = {
        "home": frame.home,
        "running": running,
        **meta,
        "waiting": waiting,
        "nodes": nodes,
        "frontier": best,
    }
    cli.output(frame, value, render)


def render(value: dict[str, Any]) -> str:
    """Name and value lines."""
    from explorer import show
    from spore_borg.cli.cmd_frontier import how

    running = value["running"]
    alone = value.get("status") == "solo"
    lines: list[tuple[str, object]] = [
        ("node", value.get("me", show.NONE)),
        ("home", value["home"]),
        ("running", "no" if running is None else f"yes (process {running.get('pid', '?')})"),
        ("mesh", f"{value.get('mesh_name', '')} {value.get('mesh', '')}".strip() or show.NONE),
        ("status", "solo: results are unverified by others" if alone else value.get("status", show.NONE)),
        ("round", f"{value.get('round', show.NONE)} (settled {value.get('round_settled', show.NONE)})"),
        ("digest", value.get("digest", show.NONE)),
        ("records", value.get("records", 0)),
        ("nodes", value["nodes"]),
        ("waiting", f"{value['waiting']} for verification"),
    ]
    if running is not None and running.get("explorer"):
        lines.append(("explorer", running["explorer"]))
    for row in value["frontier"]:
        best = f"{show.metric(row['metric'])} {row['unit']}, {how(row)}"
        lines.append(("best", f"{row['task_name']} on {row['class']}: {best}"))
    return cli.pairs(lines)
