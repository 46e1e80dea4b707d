"""``borg merge CID CID…``: make one model of absorbed models that come from one initialisation."""

from __future__ import annotations

import click

from spore_borg.cli import control, wishes
from spore_borg.cli import frame as cli

RULES = ("trimmed/1", "mean/1")


@cli.command("merge")
@click.argument("cids", metavar="CID…", nargs=-1, required=True)
@click.option(
    "--rule", type=click.Choice(RULES), default=RULES[0], show_default=True, help="How weights become one."
)
@click.option("--base", metavar="CID", help="The absorbed model that all of them were trained from.")
@click.option("--wait", is_flag=True, help="Wait for the mesh's verdict as well.")
def command(frame: cli.Frame, cids: tuple[str, ...], rule: str, base: str | None, wait: bool) -> None:
    """Make one model of absorbed models of one lineage: the same network, trained further in several ways.

    Each CID is an absorption in the state, or the beginning of it; `borg state` lists them. Each counts by what it has
    earned: its author's trust times its verified gain. The merge takes their place if the state gets better somewhere
    or smaller, and the probes show that it gets worse nowhere; else they stay. Without a running node the wish is kept
    for the next `borg run`. Exit code 1: there can be no such merge, or it did not join.
    """
    from spore_borg.cli import reading
    from spore_borg.home import Home
    from spore_borg.node.requests import Requests

    with reading.views(frame.home) as db:
        whole = [reading.record_id(db, cid) for cid in cids]
        origin = None if base is None else reading.record_id(db, base)
    if len(set(whole)) < 2:
        raise click.UsageError("A merge joins at least two different models.")
    requests = Requests(Home(frame.home).create())
    if control.running(frame.home) is None:
        wishes.tell_kept(frame, requests.add_merge(whole, rule, origin))
        return
    name = control.call(frame.home, "merge", cids=" ".join(whole), rule=rule, base=origin or "")
    found = requests.get(str(name))
    if found is None:
        raise click.UsageError("The node has this wish no more; `borg state` shows what came of it.")
    wishes.tell(frame, requests, found, wait)
