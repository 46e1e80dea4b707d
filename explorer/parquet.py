"""Tables as Parquet: integers stay integers, and memory holds one row group whatever the table's length.

Needs pyarrow, which is large and therefore an extra: ``pip install 'spore-borg[parquet]'``. A field inside a field is
a column of its own (``author_name``), as in the CSV; lists and objects are JSON texts, as there.
"""

from __future__ import annotations

import dataclasses
import io
import json
import types
import typing
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from explorer.values import to_plain
from spore_borg.errors import EXIT_NOT_ALLOWED, BorgError

GROUP_ROWS = 10_000  # rows of one row group: what a reader decodes at once, and what is held here
INSTALL = "pip install 'spore-borg[parquet]'"
MEDIA = "application/vnd.apache.parquet"


class NoParquet(BorgError):
    """Parquet needs pyarrow, which is not installed. Install it with `{command}`, or take csv or ndjson."""

    exit_code = EXIT_NOT_ALLOWED


def library() -> tuple[Any, Any]:
    """``(pyarrow, pyarrow.parquet)``.

    Raises:
        NoParquet: not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise NoParquet(command=INSTALL) from error
    return pyarrow, pyarrow.parquet


def _bare(hint: object) -> tuple[object, bool]:
    """A type without its None, and whether it had one."""
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        inside = [one for one in typing.get_args(hint) if one is not type(None)]
        optional = len(inside) < len(typing.get_args(hint))
        return (inside[0] if len(inside) == 1 else object), optional
    return hint, False


def columns(row: type, prefix: str = "") -> list[tuple[str, str, bool]]:
    """``(name, kind, may be absent)`` of a row type's columns; kind is int, float, bool, str or json."""
    hints = typing.get_type_hints(row)
    out: list[tuple[str, str, bool]] = []
    for field in dataclasses.fields(row):
        kind, optional = _bare(hints[field.name])
        name = prefix + field.name
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            out += columns(kind, f"{name}_")
        elif kind in {int, float, bool, str}:
            out.append((name, typing.cast(type, kind).__name__, optional))
        else:
            out.append((name, "json", True))
    return out


def schema(row: type) -> Any:
    """The Arrow schema of a row type."""
    arrow, _ = library()
    forms = {
        "int": arrow.int64(),
        "float": arrow.float64(),
        "bool": arrow.bool_(),
        "str": arrow.string(),
        "json": arrow.string(),
    }
    return arrow.schema(
        [arrow.field(name, forms[kind], nullable=optional) for name, kind, optional in columns(row)],
        metadata={
            "row": row.__name__,
            "units": "metrics: nano-units; trust and amounts: 2^-20; times: milliseconds",
        },
    )


def _cells(value: object) -> Iterator[object]:
    assert dataclasses.is_dataclass(value)
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            yield from _cells(item)
        elif isinstance(item, list | tuple | dict):
            # A lone surrogate, which JSON may hold and UTF-8 may not, becomes a question mark, as in the CSV.
            yield json.dumps(to_plain(item), ensure_ascii=False).encode("utf-8", "replace").decode()
        else:
            yield item


class _Out(io.RawIOBase):
    """Takes what the writer writes, to be sent on."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.sent = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Keep a piece until it is taken."""
        self.pieces.append(bytes(data))
        self.sent += len(self.pieces[-1])
        return len(self.pieces[-1])

    def tell(self) -> int:
        """Bytes written so far."""
        return self.sent

    def take(self) -> bytes:
        """What was written since the last time."""
        found, self.pieces = b"".join(self.pieces), []
        return found


def encode(row: type, pieces: Iterable[tuple[object, ...]]) -> Iterator[bytes]:
    """Rows as one Parquet file, a row group at a time.

    Args:
        row: the dataclass of the rows. pieces: the rows, some at a time.
    Raises:
        NoParquet: pyarrow is not installed.
    """
    arrow, parquet = library()
    form, sink, held = schema(row), _Out(), list[tuple[object, ...]]()
    rest = iter(pieces)
    first = next(rest, ())  # before anything is sent: an impossible request still has a status to give

    def group() -> Any:
        table = [arrow.array([cells[at] for cells in held], type=field.type) for at, field in enumerate(form)]
        held.clear()
        return arrow.Table.from_arrays(table, schema=form)

    with parquet.ParquetWriter(sink, form, compression="zstd") as writer:
        yield sink.take()
        for rows in chain((first,), rest):
            held += [tuple(_cells(value)) for value in rows]
            if len(held) >= GROUP_ROWS:
                writer.write_table(group())
                yield sink.take()
        if held:
            writer.write_table(group())
    yield sink.take()
