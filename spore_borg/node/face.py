"""What the person who started the node sees: a live view on a terminal, one line an event anywhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import trio

from spore_borg.node.hub import Hub
from spore_borg.records.keys import node_name
from spore_borg.views.frontier import short_unit

REFRESH_S = 0.5


class Face:
    """The state that both the terminal and the explorer's live cards show.

    Attributes:
        run, verify: what is running and being verified now; None for nothing.
        peers: rows of ``Peers.status``; explorer, ticket: texts to copy.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.run: dict[str, Any] | None = None
        self.verify: str | None = None
        self.peers: Callable[[], list[dict[str, Any]]] = list
        self.node: dict[str, Any] = {}
        self.explorer: str | None = None
        self.ticket: str | None = None

    def state(self) -> dict[str, Any]:
        """Everything that ``cli.live.render`` takes."""
        view, me = self.hub.view, self.hub.me
        ranked = sorted(view.ledger.trust, key=lambda who: (-view.ledger.trust[who], who))
        return {
            "role": self.node.get("mode"), "frontier": self._frontier(), "run": self.run,
            "verify": {"what": self.verify, "waiting": len(view.pending)},
            "peers": [{"name": p.get("name"), "latency_ms": p.get("latency_ms")} for p in self.peers()],
            "reputation": {
                "trust": view.ledger.trust.get(me, 0),
                "rank": ranked.index(me) + 1 if me in view.ledger.trust else None,
            },
            "events": [(item["epoch"], item["event"], item["text"]) for item in self.hub.events],
            "explorer_url": self.explorer, "ticket": self.ticket,
            "mesh": view.genesis.body.name if view.genesis else None,
            "status": "mesh" if any(who != me for who in view.ledger.trust) else "solo",
            "round": view.round, "digest": (view.digest_of(view.round_settled) or b"").hex(),
        }  # fmt: skip

    def _frontier(self) -> dict[str, Any] | None:
        view = self.hub.view
        for pools, status in ((view.frontiers, "confirmed"), (view.solo, "solo")):
            for (task, _), frontier in sorted(pools.items()):
                if frontier.steps:
                    best, first = frontier.mean(frontier.steps[-1].recipe), frontier.steps[0].metric
                    unit = f"{short_unit(view.tasks[task].unit)} on {view.tasks[task].name}"
                    return {
                        "best": best, "unit": unit, "gain": first - best, "steps": len(frontier.steps) - 1,
                        "status": status,
                    }  # fmt: skip
        return None

    async def publish_live(self) -> None:
        """Write what is happening now for the explorer's live cards."""
        await self.hub.publish_live(
            {
                "run": None if self.run is None else dict(self.run),
                "verify": {"what": self.verify, "waiting": len(self.hub.view.pending)},
                "peers": self.peers(),
                "events": list(self.hub.events),
                "node": {
                    **self.node, "name": node_name(self.hub.me), "explorer": self.explorer, "ticket": self.ticket,
                },
            }
        )  # fmt: skip


async def show_forever(face: Face, *, as_json: bool) -> None:
    """Show the node until cancelled: a live view on a terminal, lines otherwise."""
    if sys.stdout.isatty() and not as_json:
        await _live(face)
        return
    from spore_borg.cli import live

    def say(event: dict[str, Any]) -> None:
        print(json.dumps(event) if as_json else live.line(event), flush=True)

    for event in face.hub.events:
        say(event)
    face.hub.on_event.append(say)
    while True:
        await face.publish_live()
        await trio.sleep(REFRESH_S * 2)


async def _live(face: Face) -> None:
    from rich.live import Live

    from spore_borg.cli import live

    with Live(refresh_per_second=4, screen=False, transient=False) as screen:
        while True:
            size = screen.console.size
            screen.update(live.render(face.state(), size.width, size.height))
            await face.publish_live()
            await trio.sleep(REFRESH_S)
