"""``borg export``: whole tables as files, and experiments as runs of MLflow or trackio."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spore_borg.cli import frame as cli
from spore_borg.errors import UsageError

if TYPE_CHECKING:
    from explorer.db import Db

TABLE_FORMATS = ("csv", "ndjson", "parquet")
FOREIGN_FORMATS = ("mlflow", "trackio")


@cli.command("export")
@click.argument("tables", metavar="[TABLE]...", nargs=-1)
@click.option(
    "--format",
    "form",
    type=click.Choice([*TABLE_FORMATS, *FOREIGN_FORMATS]),
    help="Default: what the file's name ends with, else csv.",
)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A directory, or a file for one table. Without it, one table goes to stdout.",
)
@click.option(
    "--newest", metavar="N", type=click.IntRange(min=1), help="With mlflow and trackio: only the newest N."
)
def command(
    frame: cli.Frame, tables: tuple[str, ...], form: str | None, output: Path | None, newest: int | None
) -> None:
    """Write tables, or all experiments as runs of another tool.

    Tables are those of the explorer: records, experiments, frontier, steps, evidence, ledger, and so on; without a
    name, all of them. Metrics are integers in nano-units, as everywhere. Parquet needs an extra: pip install
    'spore-borg[parquet]'.

    mlflow and trackio write every experiment as a run with its parameters, its training curve, its result in the
    task's unit and what others say of it; then those tools show them. Works beside a running node. Done again, the
    same records give the same bytes, and only what changed is written.
    """
    from spore_borg.cli import reading

    with reading.views(frame.home) as db:
        if form in FOREIGN_FORMATS:
            value = foreign(db, form or "", tables, output, newest)
        elif newest is not None:
            raise UsageError(detail="--newest is for --format mlflow and trackio; a table is exported whole.")
        elif output is None:
            return to_stdout(frame, tables, form or "csv")
        else:
            value = to_files(frame.home, tables, form, output)
    return cli.output(frame, value, said)


def foreign(
    db: Db, form: str, tables: tuple[str, ...], output: Path | None, newest: int | None
) -> dict[str, Any]:
    """Write another tool's store."""
    from explorer import mlflow_store, trackio_store

    if tables:
        raise UsageError(detail=f"{form} takes all experiments: leave {' '.join(tables)} out.")
    if output is None:
        raise UsageError(detail=f"{form} is a directory of files: say where with -o DIR.")
    store = mlflow_store if form == "mlflow" else trackio_store
    done = store.write(db, output, newest)
    return {
        "format": form,
        "output": str(output),
        "runs": done.runs,
        "projects": sorted(done.projects),
        "files_changed": done.files_changed,
        "open_with": store.OPEN.format(folder=output),
    }


def names_of(tables: tuple[str, ...]) -> tuple[str, ...]:
    """The tables asked for, or all.

    Raises:
        UsageError: there is no such table.
    """
    from explorer import export

    for name in tables:
        if name not in export.TABLES:
            raise UsageError(detail=f"There is no table {name}; there are {', '.join(export.TABLES)}.")
    return tuple(dict.fromkeys(tables)) or tuple(export.TABLES)


def pieces(home: Path, name: str, form: str, counted: list[int]) -> Iterator[bytes]:
    """One table, a piece at a time; ``counted[0]`` grows with its rows."""
    from explorer import export

    def rows() -> Iterator[tuple[object, ...]]:
        # The table of records holds all kinds here; the page shows experiments unless asked for more.
        for part in export.pieces(home, name, {"kind": "all"}):
            counted[0] += len(part)
            yield part

    return export.form(name, form, rows())


def to_stdout(frame: cli.Frame, tables: tuple[str, ...], form: str) -> None:
    """One table on stdout."""
    if frame.json:
        raise UsageError(detail="--json says what was written: say where with -o. (ndjson is JSON, too.)")
    if len(tables) != 1:
        raise UsageError(detail="Only one table fits on stdout: name one, or give a directory with -o DIR.")
    (name,) = names_of(tables)
    if form == "parquet" and sys.stdout.isatty():
        raise UsageError(detail="Parquet is no text for a terminal: give a file with -o.")
    out = sys.stdout.buffer  # CSV has line ends of its own
    for piece in pieces(frame.home, name, form, [0]):
        out.write(piece)
    out.flush()


def to_files(home: Path, tables: tuple[str, ...], form: str | None, output: Path) -> dict[str, Any]:
    """Tables as files, each put in its place when it is whole."""
    names = names_of(tables)
    ending = output.suffix.lower().lstrip(".")
    single = len(tables) == 1 and not output.is_dir() and ending in TABLE_FORMATS
    if single and form not in {None, ending}:
        raise UsageError(detail=f"{output} ends with .{ending}, but --format says {form}. Make them agree.")
    if not single and output.exists() and not output.is_dir():
        raise UsageError(detail=f"{output} is a file. Give a directory, or one table and a file .csv, .ndjson or "
                         ".parquet.")  # fmt: skip
    chosen = form or (ending if single else "csv")
    (output.parent if single else output).mkdir(parents=True, exist_ok=True)
    files = []
    for name in names:
        path = output if single else output / f"{name}.{chosen}"
        part, counted = path.with_name(path.name + ".part"), [0]
        try:
            with part.open("wb") as out:
                for piece in pieces(home, name, chosen, counted):
                    out.write(piece)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        files.append(
            {"table": name, "file": str(path), "rows": counted[0], "size_bytes": path.stat().st_size}
        )
    return {"format": chosen, "output": str(output), "files": files}


def said(value: dict[str, Any]) -> str:
    """What was written."""
    from explorer import show

    if "files" in value:
        rows = [(f["table"], f["rows"], show.size(f["size_bytes"]), f["file"]) for f in value["files"]]
        return cli.table(["table", "rows>", "size>", "file"], rows)
    runs, projects = show.plural(value["runs"], "run"), show.plural(len(value["projects"]), "project")
    changed = show.plural(value["files_changed"], "file")
    return f"{value['output']}: {runs} in {projects}; {changed} changed.\nOpen it with: {value['open_with']}"
