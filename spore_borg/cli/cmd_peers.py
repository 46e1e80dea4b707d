"""``borg peers``: the connections of the running node."""

from __future__ import annotations

from typing import Any

from spore_borg.cli import control
from spore_borg.cli import frame as cli


@cli.command("peers")
def command(frame: cli.Frame) -> None:
    """The peers that the running node is connected to."""
    cli.output(frame, {"peers": control.call(frame.home, "peers")}, render)


def render(value: dict[str, Any]) -> str:
    """One line a peer."""
    from explorer import show

    return cli.table(
        ["node", "address", "direction", "role", "latency ms>", "behind>", "rejected>", "agent"],
        [
            (
                show.short(peer.get("node")),
                show.plain(peer.get("address"), 60),
                peer.get("direction", ""),
                peer.get("role", ""),
                peer.get("latency_ms", ""),
                peer.get("behind", ""),
                peer.get("rejected", ""),
                show.plain(peer.get("agent"), 40),
            )
            for peer in value["peers"]
        ],
        empty="No peers. `borg ticket` prints an invitation; `borg connect ADDRESS` dials a peer.",
    )
