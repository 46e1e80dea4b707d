"""``borg state``: the absorbed models that this mesh answers with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from spore_borg.cli import frame as cli

SHARDS = """SELECT s.*, n.display FROM shard s LEFT JOIN node n ON n.name = s.author
  ORDER BY s.member = 0, s.modality, s.name, s.seq"""
META = "SELECT key, value FROM meta WHERE key IN ('state_digest', 'state_members', 'status')"
MEMBER = {0: "no", 1: "yes", 2: "solo"}


@cli.command("state")
@click.option("--all", "every", is_flag=True, help="Also what did not join, or waits for its verdict.")
@click.option(
    "--fetch",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the shards of the state to DIR; spore_borg.load(DIR) answers from it, without a node.",
)
def command(frame: cli.Frame, every: bool, fetch: Path | None) -> None:
    """The absorbed models that this mesh answers with: fidelity, gain on the probes, verdict.

    `solo`: only its author's word, since nobody else is in the mesh to verify it.
    """
    if fetch is not None:
        from spore_borg.node import state_bundle

        cli.output(frame, state_bundle.fetch(frame.home, fetch), render_fetched)
        return
    cli.output(frame, value_of(frame, every), render)


def render_fetched(value: dict[str, Any]) -> str:
    """What was written, and how to use it."""
    names = [f"  {model['name']} ({model['head']}, {model['modality']})" for model in value["models"]]
    use = f"Use it in Python: spore_borg.load({value['dir']!r}).embed([…])"
    return "\n".join([value["dir"], *map(cli.one_line, names), use])


def value_of(frame: cli.Frame, every: bool) -> dict[str, Any]:
    """Digest and members of the state; requests of this node that are not over."""
    from spore_borg.cli import reading
    from spore_borg.home import Home
    from spore_borg.node.requests import Requests

    with reading.views(frame.home) as db:
        meta = {row["key"]: row["value"] for row in db.connection.execute(META)}
        rows = [dict(row) for row in db.connection.execute(SHARDS)]
    for row in rows:
        for name in ("sources", "inputs", "state", "gains"):
            row[name] = json.loads(row[name])
        row["fidelity_nano"] = 10**9 - row["metric"]
    waiting = [request for request in Requests(Home(frame.home)).all() if not request.over]
    return {
        "digest": meta.get("state_digest", ""), "members": int(meta.get("state_members") or 0),
        "status": meta.get("status", ""), "shards": [row for row in rows if row["member"] or every],
        "apart": sum(not row["member"] for row in rows),
        "requests": [{"source": r.source, "stage": r.stage, "text": r.text} for r in waiting],
    }  # fmt: skip


def render(value: dict[str, Any]) -> str:
    """The table of members, then what is not in it."""
    headings = [
        "model",
        "head",
        "takes",
        "code",
        "fidelity>",
        "gain",
        "verdict",
        "member",
        "author",
        "record",
    ]
    rows = [
        (
            model(row), row["head"], row["modality"], f"{row['rule']} T={row['steps']}",
            f"{row['fidelity_nano'] / 10**9:.4f}", gain(row["gains"]), row["verdict"], MEMBER[row["member"]],
            cli.who({"name": row["author"], "display": row["display"]}), row["cid"],
        )
        for row in value["shards"]
    ]  # fmt: skip
    lines = [cli.table(headings, rows, empty="The state is empty. `borg absorb SOURCE` brings a model in.")]
    if value["digest"]:
        lines.append(f"state {value['digest'][:16]} of {value['members']} model(s)")
    shown = sum(not row["member"] for row in value["shards"])
    if value["apart"] > shown:
        lines.append(f"{value['apart']} more did not join or wait: `borg state --all`")
    else:
        lines += [f"{row['name']}: {row['standing']}" for row in value["shards"] if not row["member"]]
    lines += [f"under way: {one['source']}: {one['text']}" for one in value["requests"]]
    return "\n".join(lines)


def gain(gains: list[dict[str, Any]]) -> str:
    """The probes by their words: ``genre +0.0312`` is the mean gain of a block, where it is beyond noise."""
    told = [
        f"{item['probe']} {item['gain'] / max(1, item['pairs']) / 10**9:+.4f}"
        for item in gains
        if item["word"] in ("better", "worse")
    ]
    return ", ".join(told) or "–"


def model(row: dict[str, Any]) -> str:
    """Its name, and of how many models it is a merge."""
    return f"{row['name']} (merge of {len(row['inputs'])})" if row["inputs"] else str(row["name"])
