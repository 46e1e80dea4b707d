"""``borg demo``: a mesh of real nodes on this machine, each a process with a directory of its own.

With cheats: one node that fabricates its metric and one that lies about its training join by invitation like
everybody else. With absorb-cheats: four nodes that absorb a model each and lie in a way each. The demo ends well when
others' evidence has killed their keys, and neither frontier nor state holds anything of theirs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from spore_borg.errors import BorgError, NodeUnreachable, TimedOut
from spore_borg.home import Home
from spore_borg.node import blame, control_client, demo_model
from spore_borg.node.requests import Requests
from spore_borg.store.tables import Tables

EPOCH_MS = 4_000
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
LOOK_S = 1.0
QUIET = frozenset(("ticket", "syncing", "experiment", "evidence", "opened", "joined", "explorer", "delayed"))


@dataclass(slots=True)
class Actor:
    """One node of the demo."""

    title: str
    home: Path
    options: dict[str, Any]
    model: int | None = None  # seed of the model that it absorbs
    process: trio.Process | None = None
    url: str | None = None
    node: str = ""


def main(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run the demo until it has shown what it is for, the time is over, or Ctrl-C.

    Args:
        path: the directory under which the nodes' directories are made.
        options: nodes, cheats, absorb_cheats, seconds, explorer_port, json.
    Returns:
        ok, frontier_steps, cheats (name, node, dead, frontier_steps, reason), honest_dead, digests, seconds.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="demo-", dir=path) as folder:
        actors = _cast(Path(folder), options)
        try:
            summary = trio.run(_play, actors, options, strict_exception_groups=True)
        except BaseExceptionGroup as group:
            error = blame.one_of(group)
            raise error from (None if error is group else group)
    return summary


def _cast(folder: Path, options: Mapping[str, Any]) -> list[Actor]:
    common = {
        "task": "pico",
        "epoch_ms": EPOCH_MS,
        "listen": ("127.0.0.1", 0),
        "no_explorer": True,
        "json": True,
    }
    if options.get("absorb_cheats"):
        return _cast_absorbers(folder, options, common)
    actors = [
        Actor(
            "root",
            folder / "1",
            {**common, "no_explorer": False, "explorer_port": options.get("explorer_port")},
        )
    ]
    for number in range(2, int(options["nodes"]) + 1):
        role = {"verify_only": True} if number == 2 else {}  # the second one
        actors.append(
            Actor("verifier" if role else f"researcher {number}", folder / str(number), {**common, **role})
        )
    if options.get("cheats"):
        for cheat, title in (
            ("metric", "cheat: fabricates its metric"),
            ("process", "cheat: lies about its training"),
        ):
            actors.append(Actor(title, folder / f"cheat-{cheat}", {**common, "cheat": cheat}))
    for actor in actors:
        actor.options["name"] = actor.title
    return actors


ABSORB_CHEATS = {
    "weight": "cheat: alters a weight", "source": "cheat: names another source",
    "fidelity": "cheat: inflates its fidelity", "probes": "cheat: poisons the readout",
}  # fmt: skip


def _cast_absorbers(folder: Path, options: Mapping[str, Any], common: dict[str, Any]) -> list[Actor]:
    """Honest nodes that verify, the first of which absorbs a model as well, and one node for each cheat."""
    common = {**common, "verify_only": True, "suite": "small", "offline": True}
    root = {**common, "no_explorer": False, "explorer_port": options.get("explorer_port")}
    actors = [Actor("root", folder / "1", root, model=0)]
    for number in range(2, int(options["nodes"]) + 1):
        actors.append(Actor(f"verifier {number}", folder / str(number), dict(common)))
    for number, (cheat, title) in enumerate(ABSORB_CHEATS.items(), 1):
        actors.append(
            Actor(title, folder / f"cheat-{cheat}", {**common, "absorb_cheat": cheat}, model=number)
        )
    for actor in actors:
        actor.options["name"] = actor.title
        if actor.model is not None:
            model = demo_model.write(folder / "models" / f"words-{actor.model}", actor.model)
            requests = Requests(Home(actor.home).create())
            requests.add(f"file:{model}", steps=1, rule="few-spike/1", licence_ok=True)
    return actors


async def _play(actors: list[Actor], options: Mapping[str, Any]) -> dict[str, Any]:
    began, summary = time.monotonic(), {"ok": False}
    say = _silent if options.get("json") else _say
    async with trio.open_nursery() as nursery:
        try:
            with trio.move_on_after(float(options["seconds"])):
                await _raise(actors, nursery, say)
                while not summary["ok"]:
                    await trio.sleep(LOOK_S)
                    summary = _look(actors, options)
                if not options.get("json"):
                    print(
                        describe(summary),
                        "The pages stay until the time is over, or Ctrl-C.",
                        sep="\n",
                        flush=True,
                    )
                    await trio.sleep_forever()
            summary = _look(actors, options)
        finally:
            with trio.CancelScope(shield=True):
                await _stop(actors)
            nursery.cancel_scope.cancel()
    return {**summary, "seconds": round(time.monotonic() - began, 1)}


async def _raise(actors: list[Actor], nursery: trio.Nursery, say: Any) -> None:
    """Start the root, then everyone else with a ticket of the root's."""
    for actor in actors:
        if actor is not actors[0]:
            actor.options["join"] = await _ticket(actors[0].home)
        node = ["spore_borg.node.demo", str(actor.home), json.dumps(actor.options)]
        actor.process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "spore_borg.node.leash", *node],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        nursery.start_soon(_listen, actor, say)
        if actor is actors[0]:
            with trio.move_on_after(START_TIMEOUT_S):
                while actor.url is None and actor.process.poll() is None:  # noqa: ASYNC110 - a process is polled
                    await trio.sleep(0.1)
            if actor.url is None:
                raise TimedOut(
                    what="The start of the demo's first node", limit_s=START_TIMEOUT_S,
                    hint="`borg doctor` checks this machine.",
                )  # fmt: skip
            say(f"explorer: {actor.url}")


async def _ticket(home: Path) -> str:
    """A fresh ticket of the root, as soon as it has trust to invite with."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            answer = await trio.to_thread.run_sync(control_client.ask, home, "ticket")
        except BorgError:
            if time.monotonic() > deadline:
                raise
            await trio.sleep(0.5)
        else:
            return str(answer)


async def _listen(actor: Actor, say: Any) -> None:
    assert actor.process is not None and actor.process.stdout is not None, "it was started with a pipe"
    rest = b""
    async for part in actor.process.stdout:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["event"] == "explorer":
                actor.url = event["url"]
            if event["event"] not in QUIET:
                say(f"{actor.title:<32} {event['text']}")


def _look(actors: list[Actor], options: Mapping[str, Any]) -> dict[str, Any]:
    """What the root's tables say: frontier, state, dead keys, and whether every node has the same digest."""
    wanted = 4 if options.get("absorb_cheats") else 2 if options.get("cheats") else 0
    try:
        views = Tables.open_readonly(actors[0].home / "views.sqlite")
    except BorgError:
        return {"ok": False}
    try:
        frontier = views.execute("SELECT count(*), sum(status = 'confirmed') FROM frontier").fetchone()
        rows = views.execute(
            "SELECT n.display, n.name, n.banned, (SELECT count(*) FROM frontier f WHERE f.author = n.name), "
            "(SELECT e.reason FROM (SELECT author, verdict, reason FROM experiment UNION ALL SELECT author, verdict, "
            "reason FROM shard) e WHERE e.author = n.name AND e.verdict = 'refuted' LIMIT 1), "
            "(SELECT count(*) FROM shard s WHERE s.author = n.name AND s.member > 0) FROM node n"
        ).fetchall()
        absorbed = views.execute("SELECT count(*) FROM shard WHERE verdict = 'confirmed'").fetchone()[0]
        same = views.execute(
            "SELECT count(DISTINCT digest), count(*) FROM node "
            "WHERE digest_round = (SELECT max(digest_round) FROM node)"
        ).fetchone()
    finally:
        views.close()
    liars = [
        {
            "name": display,
            "node": name,
            "dead": bool(banned),
            "frontier_steps": steps,
            "members": members,
            "reason": reason or "",
        }
        for display, name, banned, steps, reason, members in rows
        if (display or "").startswith("cheat")
    ]
    confirmed = int(frontier[1] or 0)
    honest_dead = [
        name for display, name, banned, *_ in rows if banned and not (display or "").startswith("cheat")
    ]
    caught = len(liars) == wanted and all(
        liar["dead"] and not liar["frontier_steps"] and not liar["members"] for liar in liars
    )
    shown = absorbed if options.get("absorb_cheats") else confirmed
    return {
        "ok": shown > 0 and not honest_dead and caught, "frontier_steps": confirmed, "absorbed": absorbed,
        "cheats": liars,
        "honest_dead": honest_dead, "digests": same[0], "digest_nodes": same[1], "explorer": actors[0].url,
    }  # fmt: skip


async def _stop(actors: list[Actor]) -> None:
    for actor in actors:
        if actor.process is not None and actor.process.poll() is None:
            actor.process.terminate()
    for actor in actors:
        if actor.process is not None:
            with trio.move_on_after(STOP_TIMEOUT_S):
                await actor.process.wait()
            if actor.process.poll() is None:
                actor.process.kill()


def _say(text: str) -> None:
    print(text, flush=True)


def _silent(_text: str) -> None:
    """Nothing: only the summary is wanted."""


def describe(summary: Mapping[str, Any]) -> str:
    """What the demo has shown, in a few lines."""
    lines = [f"{summary.get('frontier_steps', 0)} frontier step(s) accepted by evidence of other nodes"]
    if summary.get("absorbed"):
        lines = [f"{summary['absorbed']} absorbed model(s) confirmed by evidence of other nodes"]
    for liar in summary.get("cheats", ()):
        word = "refuted, its key is dead" if liar["dead"] else "not yet refuted"
        lines.append(f"{liar['name']}: {word}; {liar['frontier_steps']} frontier steps. {liar['reason']}")
    lines.append(
        "The demo has shown what it is for." if summary["ok"] else "The time was too short to show it all."
    )
    return "\n".join(lines)


def _node() -> None:
    """One node of the demo, as a process: ``python -m spore_borg.node.demo HOME OPTIONS``."""
    from spore_borg.node import run

    options = json.loads(sys.argv[2])
    options["listen"] = tuple(options["listen"])
    try:
        run.main(Path(sys.argv[1]), options)
    except KeyboardInterrupt:
        sys.exit(130)
    except NodeUnreachable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _node()
