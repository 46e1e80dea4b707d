"""``borg rebuild``: delete the views and derive them from the records again."""

from __future__ import annotations

from spore_borg.cli import frame as cli


@cli.command("rebuild")
def command(frame: cli.Frame) -> None:
    """Derive all views from the records again. The digest is the same as before, unless the views were damaged."""
    from spore_borg.node import rebuild

    cli.output(frame, rebuild.rebuild(frame.home), lambda value: cli.pairs(value.items()))
