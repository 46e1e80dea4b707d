"""``borg connect ADDRESS``: let the running node dial a peer."""

from __future__ import annotations

import click

from spore_borg.cli import control
from spore_borg.cli import frame as cli
from spore_borg.limits import HANDSHAKE_TIMEOUT_S


@cli.command("connect")
@click.argument("address", metavar="ADDRESS|TICKET")
def command(frame: cli.Frame, address: str) -> None:
    """Let the running node dial a peer: HOST:PORT, or a ticket of the same mesh."""
    result = control.call(frame.home, "connect", address=address, timeout_s=HANDSHAKE_TIMEOUT_S + 5)
    cli.output(frame, {"connected": result}, lambda _: f"connected to {address}")
