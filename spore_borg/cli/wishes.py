"""Wishes of ``borg absorb`` and ``borg merge``: followed until they are over, then what came of them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spore_borg.cli import control
from spore_borg.cli import frame as cli

if TYPE_CHECKING:
    from spore_borg.node.requests import Request, Requests

LOOK_S = 0.5
ALIVE_S = 10.0  # between two looks whether the node still runs


def tell(frame: cli.Frame, requests: Requests, request: Request, wait: bool) -> None:
    """Follow a wish to its end, with ``wait`` to the mesh's verdict, and say what came of it; else exit code 1."""
    request = follow(frame, requests, request)
    done = request.stage == "published"
    verdict = await_verdict(frame, request.cid) if wait and done and request.cid else None
    cli.output(frame, value_of(request, verdict), render)
    if not done or (verdict is not None and not verdict["member"]):
        cli.answer_is_no()


def tell_kept(frame: cli.Frame, request: Request) -> None:
    """Say that a wish waits for a node."""
    cli.output(frame, value_of(request), lambda _: "No node runs here: kept for the next `borg run`.")


def follow(frame: cli.Frame, requests: Requests, request: Request) -> Request:
    """Tell every change of a request on stderr until it is over, or the node has stopped."""
    told, looked_s = "", time.monotonic()
    while True:
        now = requests.get(request.id) or request
        if now.over:
            return now
        text = now.text + (f" {round(now.part * 100)} %" if now.part else "")
        if text != told:
            told = text
            cli.note(text)
        if time.monotonic() - looked_s > ALIVE_S:
            looked_s = time.monotonic()
            if control.running(frame.home) is None:
                return replace(now, text="The node has stopped; the next `borg run` goes on with this.")
        time.sleep(LOOK_S)


def await_verdict(frame: cli.Frame, cid: str) -> dict[str, Any]:
    """The row of an absorption, as soon as it has settled."""
    from spore_borg.cli import reading

    told = ""
    while True:
        with reading.views(frame.home) as db:
            row = db.connection.execute("SELECT * FROM shard WHERE cid = ?", (cid,)).fetchone()
        if row is not None and row["stage"] == "settled":
            return dict(row)
        reason = row["reason"] if row is not None else "Its record is published."
        if reason != told:
            told = reason
            cli.note(reason)
        time.sleep(LOOK_S)


def value_of(request: Request, verdict: dict[str, Any] | None = None) -> dict[str, Any]:
    """A request as JSON, with where it stands in the state once it has settled."""
    names = ("id", "source", "rule", "steps", "stage", "text", "cid", "result")
    value = {name: getattr(request, name) for name in names}
    if verdict is not None:
        value["verdict"], value["member"] = verdict["verdict"], verdict["member"]
        value["standing"] = verdict["standing"]
    return value


def render(value: dict[str, Any]) -> str:
    """What came of it, the layers' report in short, and what happens next."""
    lines = [value["text"]]
    result = value["result"]
    if result:
        lines.append(cli.pairs([
            ("model", result["name"]), ("head", f"{result['head']} ({result['modality']})"),
            ("licence", result["licence"]), ("fidelity", fidelity(result["fidelity_nano"])), ("record", value["cid"]),
        ]))  # fmt: skip
    if "standing" in value:
        lines.append(f"{value['verdict']}: {value['standing']}")
    return "\n".join(lines)


def fidelity(nano: int) -> str:
    """A cosine from nano-units."""
    return f"{nano / 10**9:.4f}"
