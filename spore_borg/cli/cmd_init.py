"""``borg init``: identity and mesh, without starting to work."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli

TASKS = ("pico", "nano", "micro", "lattice")


@cli.command("init")
@click.option("--join", metavar="TICKET", help="Join the mesh of this invitation instead of making one.")
@click.option("--task", type=click.Choice(TASKS), help="First task of a new mesh  [default: nano].")
@click.option(
    "--epoch-ms",
    metavar="MS",
    type=click.IntRange(200, 86_400_000),
    help="Epoch length of a new mesh, in milliseconds.",
)
@click.option("--name", metavar="TEXT", help="Display name of this node; nobody checks it.")
def command(frame: cli.Frame, **options: Any) -> None:
    """Create an identity and a mesh, or join one. `borg run` does this by itself where it is needed."""
    from spore_borg.node import setup

    cli.output(frame, setup.init(frame.home, options), lambda value: cli.pairs(value.items()))
