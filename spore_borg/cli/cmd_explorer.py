"""``borg explorer``: the pages alone, beside a running node, or on a copied directory without one."""

from __future__ import annotations

import click

from spore_borg.cli import frame as cli
from spore_borg.errors import BorgError


class CannotServe(BorgError):
    """The explorer cannot serve on {host}, port {port}. Choose another with --host and --port, or add --next-free."""


@cli.command("explorer")
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to serve on."
)
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8470, show_default=True, help="Port to serve on."
)
@click.option("--next-free", is_flag=True, help="Take the next free port if this one is taken.")
def command(frame: cli.Frame, host: str, port: int, next_free: bool) -> None:
    """Serve the explorer's pages, read-only, until Ctrl-C. With --json: one line that says where."""
    from explorer import __main__ as pages

    arguments = ["--home", str(frame.home), "--bind", host, "--port", str(port)]
    arguments += ["--next-free"] * next_free + ["--json"] * frame.json
    code = pages.main(arguments)
    if code:
        if not frame.json:  # it has said why
            raise click.exceptions.Exit(code)
        refusal = CannotServe(host=host, port=port)
        refusal.exit_code = code  # type: ignore[misc] # each way to fail has a code of its own
        raise refusal
