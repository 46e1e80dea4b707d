"""``borg status``: where this node and its mesh stand."""

from __future__ import annotations

from typing import Any

from spore_borg.cli import frame as cli


@cli.command("status")
def command(frame: cli.Frame) -> None:
    """Where this node and its mesh stand. Works with and without a running node."""
    from spore_borg.cli import control
    from spore_borg.cli.cmd_frontier import value_of

    running = control.running(frame.home)
    value = {"home": frame.home, "running": running, **value_of(frame), "page": "status"}
    cli.output(frame, value, render)


def render(value: dict[str, Any]) -> str:
    """Name and value lines."""
    from explorer import show
    from spore_borg.cli.cmd_frontier import how, unit

    running, at = value["running"], value["frame"]
    agreement = at["agreement"]
    same = f"{agreement['nodes_same']} of {agreement['nodes_reporting']} nodes" if agreement else "nobody yet"
    lines: list[tuple[str, object]] = [
        ("node", at["me"] or show.NONE),
        ("home", value["home"]),
        ("running", "no" if running is None else f"yes (process {running.get('pid', '?')})"),
        ("mesh", show.plain(f"{at['mesh_name']} {at['mesh']}") or show.NONE),
        ("status", "solo: results are unverified by others" if at["status"] == "solo" else at["status"]),
        ("round", f"{show.count(at['round'])} (settled {show.count(at['round_settled'])})"),
        ("digest", f"{at['digest'] or show.NONE} (the same at {same})"),
        ("records", show.count(at["records"])),
        ("nodes", at["nodes"]),
        ("waiting", f"{at['waiting']} for verification"),
    ]
    if running is not None and running.get("explorer"):
        lines.append(("explorer", running["explorer"]))
    for row in value["rows"]:
        best = f"{show.metric(row['metric'])} {unit(row)}, {how(row, value['evidence'])}"
        lines.append(("best", f"{row['task']['name']} on {row['hardware_class']}: {best}"))
    return cli.pairs(lines)
