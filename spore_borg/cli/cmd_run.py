"""``borg run``: the node itself. This file only reads the options; :mod:`spore_borg.node.run` does the work."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli
from spore_borg.errors import UsageError


def host_port(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[str, int] | None:
    """``HOST:PORT`` or ``[IPV6]:PORT`` as a pair."""
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise click.BadParameter(f"{value!r} is no HOST:PORT, for example 0.0.0.0:8471")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - `:8471` asks for every interface


@cli.command("run")
@click.option(
    "--join", metavar="TICKET", help="Join the mesh of this invitation (only before a mesh is chosen)."
)
@click.option(
    "--verify-only", is_flag=True, help="Check the work of others; run no experiments of one's own."
)
@click.option(
    "--no-train", is_flag=True, help="Only keep records in step: neither research nor verification."
)
@click.option(
    "--task",
    metavar="NAME|CID",
    help="The task to work on: pico, nano, micro, lattice, or one that `borg task list` shows  "
    "[default: nano, or the mesh's].",
)
@click.option(
    "--resource", metavar="PERCENT", type=click.IntRange(1, 100), help="Share of this machine to use."
)
@click.option(
    "--epoch-ms",
    metavar="MS",
    type=click.IntRange(200, 86_400_000),
    help="Epoch length of a new mesh, in milliseconds.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=host_port,
    help="Where peers may connect; without it, port 8471 or the next free one of this machine alone.",
)
@click.option("--connect", metavar="ADDRESS", multiple=True, help="Dial this peer (may be given again).")
@click.option(
    "--explorer-port", metavar="PORT", type=click.IntRange(0, 65_535), help="Port of the explorer's pages."
)
@click.option("--no-explorer", is_flag=True, help="Serve no pages.")
@click.option("--name", metavar="TEXT", help="Display name of this node; nobody checks it.")
@click.option("--experiments", metavar="N", type=click.IntRange(min=0), help="Stop after N own experiments.")
@click.option("--seconds", metavar="N", type=click.FloatRange(min=0), help="Stop after N seconds.")
def command(frame: cli.Frame, **options: Any) -> None:
    """Research: propose, run, publish and verify experiments, until Ctrl-C.

    With nothing configured it makes an identity and a mesh of its own. Starting again goes on where it stopped.
    With --json, or when the output is no terminal: one line per event.
    """
    if options["verify_only"] and options["no_train"]:
        raise UsageError(detail="--verify-only and --no-train exclude each other; give one of them.")
    if options["no_explorer"] and options["explorer_port"] is not None:
        raise UsageError(detail="--no-explorer and --explorer-port exclude each other; give one of them.")
    from spore_borg.node import run

    run.main(frame.home, {**options, "json": frame.json})
