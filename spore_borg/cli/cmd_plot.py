"""``borg plot``: the frontier plot as a picture, the same that the explorer shows at ``/plot.svg``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spore_borg.cli import frame as cli
from spore_borg.errors import UsageError

FORMS = (".svg", ".png")


@cli.command("plot")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the picture here, as .svg or .png. Without it, it goes to stdout as SVG.",
)
@click.option("--task", metavar="NAME", help="This task (name or id); default: the first.")
@click.option("--class", "hardware", metavar="CLASS", help="This hardware class; default: one with a result.")
@click.option(
    "--x",
    "axis",
    type=click.Choice(["experiment", "time", "cost"]),
    default="experiment",
    help="The horizontal axis.",
)
def command(frame: cli.Frame, output: Path | None, task: str | None, hardware: str | None, axis: str) -> None:
    """Draw the frontier: every run, the verified best, and its noise.

    `--json` prints what is drawn instead of the picture (with -o, besides writing it). The picture needs nothing from
    elsewhere, so it can be put on any page; PNG, 1,200 × 630 pixels, is for chats and papers that take no SVG.
    """
    form = output.suffix.lower() if output is not None else ".svg"
    if form not in FORMS:
        raise UsageError(detail=f"{output} is no {' or '.join(FORMS)} file, and only those can be written.")
    from explorer import pages, render
    from spore_borg.cli import reading

    with reading.views(frame.home) as db:
        page = pages.picture(db, task=task, hardware_class=hardware, x=axis)
    picture = render.plot_svg(page)
    value = reading.page_value(page)
    if output is not None:
        output.write_bytes(render.plot_png(page) if form == ".png" else picture.encode())
        value["file"] = str(output)
    cli.output(frame, value, lambda shown: said(shown) if output is not None else picture.rstrip("\n"))


def said(value: dict[str, Any]) -> str:
    """What was drawn, in a line."""
    from explorer import show

    plot = value["plot"]
    if plot is None:
        return f"{value['file']}: nobody has run anything yet, so the picture says so."
    best = "no accepted result yet" if value["best"] is None else f"best {show.metric(value['best'])}"
    runs, steps = show.plural(plot["runs"], "run"), show.plural(len(plot["steps"]), "frontier step")
    return f"{value['file']}: {value['task']['name']} on {value['hardware_class']}, {runs}, {steps}, {best}"
