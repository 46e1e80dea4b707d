"""What every command shares: where the node lives, JSON or text, lazily loaded commands, tables of plain text.

Imports nothing but click and the standard library: ``borg --help`` must stay as cheap as click itself.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click

JSON_HELP = "Print one JSON value instead of text; errors too."
Function = TypeVar("Function", bound=Callable[..., Any])


class Frame:
    """The global options of one call. No dataclass: importing those would cost more than all the rest here."""

    __slots__ = ("home_given", "json", "verbose")

    def __init__(self, home_given: str | None = None, json: bool = False, verbose: bool = False) -> None:
        self.home_given = home_given
        self.json = json
        self.verbose = verbose

    @property
    def home(self) -> Path:
        """The node's directory: ``--home``, else ``SPORE_BORG_HOME``, else the platform's data directory."""
        from spore_borg.home import resolve

        return resolve(self.home_given)


def command(name: str, **attributes: Any) -> Callable[[Function], click.Command]:
    """Declare a command: like ``click.command``, with ``--json`` and with :class:`Frame` as first argument."""

    def declare(function: Function) -> click.Command:
        @functools.wraps(function)
        def framed(**values: Any) -> Any:
            return function(click.get_current_context().ensure_object(Frame), **values)

        return click.command(name, cls=click.Command, **attributes)(json_option(framed))

    return declare


def json_option(function: Function) -> Function:
    """Add ``--json``; it lands in the frame, not among the command's own arguments."""

    def keep(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            context.ensure_object(Frame).json = True

    return click.option("--json", "as_json", is_flag=True, expose_value=False, callback=keep, help=JSON_HELP)(
        function
    )


class LazyGroup(click.Group):
    """A group whose commands are modules ``spore_borg.cli.cmd_<name>``, imported when they are called.

    Args:
        table: command name → its one-line help; shown without importing the command (a test compares both).
    """

    def __init__(self, *args: Any, table: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None for a name that is not in the table."""
        if cmd_name not in self.table:
            return None
        module = importlib.import_module(f"spore_borg.cli.cmd_{cmd_name}")
        return cast(click.Command, module.command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest name as a hint where there is none of this name."""
        if args and args[0] not in self.table and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], self.table, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " `borg --help` lists them."
            raise click.UsageError(f"No command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


def to_plain(value: object) -> object:
    """A value as JSON can hold it: dataclasses as objects, bytes as hex, paths as text."""
    import dataclasses

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, bytes):
        # A cid is bytes with a text form of its own; other bytes are hex.
        return value.hex() if type(value) is bytes else str(value)
    if isinstance(value, Path):
        return str(value)
    return value


def dumps(value: object) -> str:
    """JSON text of a value, two spaces deep, unescaped."""
    return json.dumps(to_plain(value), indent=2, ensure_ascii=False)


def output(frame: Frame, value: object, render: Callable[[Any], str]) -> None:
    """Print a command's value: as JSON with ``--json``, else as the text that ``render`` makes of it."""
    click.echo(dumps(value) if frame.json else render(value))


def note(text: str) -> None:
    """A line of progress or warning: on stderr, so that stdout stays data."""
    click.echo(text, err=True)


def answer_is_no() -> None:
    """End with exit code 1: the command is done, and the answer is no."""
    raise click.exceptions.Exit(1)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "nothing yet") -> str:
    """Rows as aligned columns of text; a column of numbers (a heading that ends in ``>``) is aligned right.

    Args:
        empty: the whole text when there is no row.
    """
    cells = [[one_line("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not cells:
        return empty
    names = [heading.rstrip(">") for heading in headings]
    widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
    lines = [names, *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if heading.endswith(">") else cell.ljust(width)
            for cell, width, heading in zip(line, widths, headings, strict=True)
        ).rstrip()
        for line in lines
    )


def pairs(items: Iterable[tuple[str, object]]) -> str:
    """Names and values, one pair a line."""
    shown = [(name, one_line(str(value))) for name, value in items]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in shown)


def who(node: dict[str, Any]) -> str:
    """A node as pages name it: the display name that it gives itself, and the beginning of its key."""
    short = str(node["name"])[:8]
    display = one_line(str(node["display"] or ""))[:24].strip()
    return f"{display} {short}" if display else short


def one_line(text: str) -> str:
    """Text from a record without line breaks or control characters: a stranger's text must not move the cursor."""
    return "".join(char if char.isprintable() else " " for char in text)


def quiet_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush of a closed pipe says nothing."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
