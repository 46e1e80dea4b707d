"""``borg retract CID``: take an own absorption out of the state."""

from __future__ import annotations

import click

from spore_borg.cli import control
from spore_borg.cli import frame as cli


@cli.command("retract")
@click.argument("cid", metavar="CID")
@click.option("--why", default="", metavar="TEXT", help="The reason, for everyone to read.")
def command(frame: cli.Frame, cid: str, why: str) -> None:
    """Take a model that this node absorbed out of the state. Its record stays; to bring it back, absorb it again.

    CID is the absorption's record, or the beginning of it.
    """
    from spore_borg.cli import reading

    with reading.views(frame.home) as db:
        whole = reading.record_id(db, cid)
    record = control.call(frame.home, "retract", cid=whole, why=why)
    cli.output(frame, {"target": whole, "record": record}, lambda _: f"retracted {whole}")
