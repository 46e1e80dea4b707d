"""``borg explorer``: the pages alone, beside a running node, or on a copied directory without one."""

from __future__ import annotations

import click

from spore_borg.cli import frame as cli


@cli.command("explorer")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8470, show_default=True, help="Port to serve on."
)
def command(frame: cli.Frame, host: str, port: int) -> None:
    """Serve the explorer's pages, read-only, until Ctrl-C. With --json: one line that says where."""
    from explorer import __main__ as pages

    pages.main(frame.home, host=host, port=port, as_json=frame.json)
