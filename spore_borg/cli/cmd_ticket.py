"""``borg ticket``: print an invitation into this mesh."""

from __future__ import annotations

import click

from spore_borg.cli import control
from spore_borg.cli import frame as cli


@cli.command("ticket")
@click.option(
    "--no-invite", is_flag=True, help="Only address, key and mesh: the newcomer earns its trust by work."
)
def command(frame: cli.Frame, no_invite: bool) -> None:
    """Print an invitation into this mesh, for `borg run --join TICKET`.

    It carries address, key and mesh, and a one-time key that gives the newcomer a bounded share of trust. Give it
    to one friend; who holds it can use it once.
    """
    ticket = control.call(frame.home, "ticket", invite=not no_invite)
    value = {"ticket": ticket} if isinstance(ticket, str) else ticket
    cli.output(frame, value, lambda shown: str(shown["ticket"]))
