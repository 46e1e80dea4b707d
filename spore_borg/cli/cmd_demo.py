"""``borg demo``: a mesh of a few nodes on this machine, in a directory of its own."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli


@cli.command("demo")
@click.option("--cheats", is_flag=True, help="Add two cheats, and show how evidence refutes them.")
@click.option(
    "--absorb-cheats", is_flag=True, help="Absorb models instead: one honest node, and four that lie."
)
@click.option(
    "--nodes", metavar="N", type=click.IntRange(2, 16), default=3, show_default=True, help="Honest nodes."
)
@click.option(
    "--seconds",
    metavar="N",
    type=click.FloatRange(min=1),
    default=300,
    show_default=True,
    help="Stop after N seconds.",
)
@click.option(
    "--explorer-port", metavar="PORT", type=click.IntRange(0, 65_535), help="Port of the explorer's pages."
)
def command(frame: cli.Frame, **options: Any) -> None:
    """Show the mesh at work on this machine: several nodes, the task pico, epochs of seconds."""
    from spore_borg.node import demo

    summary = demo.main(frame.home, {**options, "json": frame.json})
    cli.output(frame, summary, demo.describe)
    if not summary["ok"]:
        cli.answer_is_no()
