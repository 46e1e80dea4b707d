"""``borg explorer``: the pages alone, beside a running node, or on a copied directory without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65_535),
    default=8470,
    show_default=True,
    help="Port to serve on.",
)
@click.option("--bind", metavar="ADDRESS[:PORT]", help="Both in one, in place of --host and --port.")
@click.option("--next-free", is_flag=True, help="Take the next free port if this one is taken.")
@click.option("--read-only", is_flag=True, help="Be a public mirror: nothing local, limits for every client.")
@click.option(
    "--public-url", metavar="URL", help="How the world reaches the mirror, or the site that --export writes."
)
@click.option(
    "--trusted-proxy",
    metavar="ADDRESS",
    multiple=True,
    help="With --read-only: believe X-Forwarded-For from this address or network; may be repeated.",
)
@click.option(
    "--export",
    "export_dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the public pages as files for any web host, and end.",
)
@click.option(
    "--records",
    metavar="N",
    type=click.IntRange(0, 100_000),
    default=500,
    show_default=True,
    help="With --export: so many of the newest records, and all of the frontier.",
)
def command(
    frame: cli.Frame,
    host: str,
    port: int,
    bind: str | None,
    next_free: bool,
    read_only: bool,
    public_url: str | None,
    trusted_proxy: tuple[str, ...],
    export_dir: Path | None,
    records: int,
) -> None:
    """Serve the explorer's pages until Ctrl-C, or write them as files. With --json: one line that says where.

    The pages never change anything. --read-only is for strangers: it also leaves out what is local (peers, addresses,
    the process) and limits how often each client may ask. See docs/explorer-mirror.md.
    """
    if export_dir is not None:
        return cli.output(frame, exported(frame.home, export_dir, public_url, records), said)
    from explorer import __main__ as pages

    arguments = ["--home", str(frame.home), "--bind", bind or host, "--port", str(port)]
    arguments += ["--next-free"] * next_free + ["--json"] * frame.json + ["--read-only"] * read_only
    arguments += ["--public-url", public_url] if public_url is not None else []
    arguments += [part for proxy in trusted_proxy for part in ("--trusted-proxy", proxy)]
    mirror_options = pages.parse(arguments)
    pages.mirror_of(mirror_options)  # a wrong option is told like any other command's
    pages.split_bind(mirror_options.bind, port)
    code = pages.main(arguments)
    if code:
        if not frame.json:  # it has said why
            raise click.exceptions.Exit(code)
        refusal = CannotServe(host=bind or host, port=port)
        refusal.exit_code = code  # type: ignore[misc] # each way to fail has a code of its own
        raise refusal
    return None


def exported(home: Path, folder: Path, public_url: str | None, records: int) -> dict[str, Any]:
    """Write the static site."""
    from explorer import static_site

    done = static_site.write(home, folder, public_url=public_url, records=records)
    return {
        "output": str(folder),
        "pages": done.pages,
        "files": done.files,
        "size_bytes": done.size_bytes,
        "removed": done.removed,
        "index": str(folder / "index.html"),
    }


def said(value: dict[str, Any]) -> str:
    """What was written."""
    from explorer import show

    files = f"{show.plural(value['files'], 'file')}, {show.size(value['size_bytes'])}"
    gone = f"; {show.plural(value['removed'], 'old file')} removed" if value["removed"] else ""
    return (
        f"{value['output']}: {show.plural(value['pages'], 'page')} in {files}{gone}.\nOpen {value['index']}"
    )
