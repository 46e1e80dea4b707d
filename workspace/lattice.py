"""The character lattice: which character follows which, as counts that join exactly and are verified exactly.

The training text is cut into 64 slices. Each slice is a *member*: its counts are a function of the text, so whoever
reads it finds the same, and reading it twice adds nothing. ``W_τ`` is the sum of what the members say of a pair, with
their number; ``W_ρ`` the strongest exclusion that any of them found (how often the first character was followed by
another one). Rows, the pairs with one first character, belong to ranges of radicals: whoever reads a slice writes the
rows of some ranges only, and ``read`` says which. Joins are unions and maxima: any order, any number of times.
Source: "SGS.ai Kibbutz" §§1, 3; spec/53-lattice.md.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workspace import sketch
from workspace.radicals import ALL_RANGES, range_of

SLICES = 64
READABLE = SLICES - 1  # the last slice is never counted: the weights of the members are measured on it
CHARACTERS_MAX = 1 << 22  # of a training text: sums of the model then fit 63 bits
ENTRIES_MAX = CHARACTERS_MAX
CODE_MAX = 0x10FFFF
FORMAT = "spore-borg-lattice/1"
HEADER_BYTES_MAX = 4_096

Codes = NDArray[np.int64]
Ints = NDArray[np.int64]


class DataError(ValueError):
    """A lattice, state or text that cannot be used. The worker tells it by this name as an error of kind ``data``."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """Counts of one or several slices.

    Attributes:
        keys: int64 [n], ascending: first character · 2^27 + second · 2^6 + slice.
        counts: int64 [n], from 1: how often the second followed the first in the slice.
        read: int64 [64]: which ranges of rows of each slice were counted, one bit each.
        seen: uint8 [4096]: sketch of the text that was read.
    """

    keys: Ints
    counts: Ints
    read: Ints
    seen: sketch.Registers

    @property
    def pairs(self) -> Ints:
        """The pair of each entry, without the slice."""
        return self.keys >> 6

    @property
    def firsts(self) -> Ints:
        """The first character of each entry."""
        return self.keys >> 27


def empty() -> Lattice:
    """Nothing read."""
    nothing = np.zeros(0, np.int64)
    return Lattice(nothing, nothing, np.zeros(SLICES, np.int64), sketch.empty())


def ranges_of(codes: Ints) -> Ints:
    """The range of each character, [n]."""
    unique, where = np.unique(codes, return_inverse=True)
    return np.array([range_of(code) for code in unique.tolist()], np.int64)[where]


def counted(
    text: Codes, slice_: int, ranges: int, begin: int = 1, end: int | None = None
) -> tuple[Ints, Ints]:
    """Keys and counts of the pairs that end at ``begin`` … ``end - 1`` of a slice's text, rows of these ranges only."""
    after = text[begin:end]
    before = text[begin - 1 : begin - 1 + len(after)]
    kept = (ranges >> ranges_of(before) & 1).astype(bool)
    keys = before[kept] << 27 | after[kept] << 6 | slice_
    found, times = np.unique(keys, return_counts=True)
    return found, times.astype(np.int64)


def added(keys: Ints, counts: Ints, more: Ints, times: Ints) -> tuple[Ints, Ints]:
    """Two lists of counts added up."""
    found, where = np.unique(np.concatenate((keys, more)), return_inverse=True)
    total = np.zeros(len(found), np.int64)
    np.add.at(total, where, np.concatenate((counts, times)))
    return found, total


def join(a: Lattice, b: Lattice) -> Lattice:
    """Both together: the larger count of each entry, of honest lattices the same one. Commutative, idempotent."""
    keys, where = np.unique(np.concatenate((a.keys, b.keys)), return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.maximum.at(counts, where, np.concatenate((a.counts, b.counts)))
    return Lattice(keys, counts, a.read | b.read, sketch.join(a.seen, b.seen))


def characters_read(read: Ints, slice_characters: int) -> int:
    """Characters of the slices of which anything was read."""
    return int((read != 0).sum()) * slice_characters


def check(lattice: Lattice, slice_characters: int) -> None:
    """Raise DataError unless the entries are in order, in bounds, and in rows that were read."""
    keys, counts, read = lattice.keys, lattice.counts, lattice.read
    if len(keys) != len(counts) or len(keys) > ENTRIES_MAX:
        raise DataError(f"a lattice has one count for each of at most {ENTRIES_MAX} entries")
    if len(keys) and (int(keys.min()) < 0 or bool((np.diff(keys) <= 0).any())):
        raise DataError("the entries of a lattice are in ascending order, each once")
    if read.shape != (SLICES,) or int(read.min()) < 0 or int(read.max()) > ALL_RANGES or int(read[-1]):
        raise DataError(f"a lattice says of {READABLE} slices which of the ranges were read")
    if lattice.seen.shape != (sketch.REGISTERS,) or int(lattice.seen.max()) > sketch.RANK_MAX:
        raise DataError(f"a sketch has {sketch.REGISTERS} registers up to {sketch.RANK_MAX}")
    if not len(keys):
        return
    if max(int(lattice.firsts.max()), int((keys >> 6 & 0x1FFFFF).max())) > CODE_MAX:
        raise DataError("the entries of a lattice are pairs of Unicode characters")
    if int(counts.min()) < 1 or int(counts.max()) > slice_characters:
        raise DataError(f"a count is from 1 to the {slice_characters} characters of a slice")
    totals = np.zeros(SLICES, np.int64)
    np.add.at(totals, keys & 63, counts)
    if int(totals.max()) > slice_characters:
        raise DataError("a slice has no more pairs than characters")
    if not bool((read[keys & 63] >> ranges_of(lattice.firsts) & 1).all()):
        raise DataError("an entry lies in a row that its contribution does not own")


# ---- bytes


def encode(tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    """The one safetensors file of these tensors: names and metadata sorted, no other byte."""
    names = {"int64": "I64", "int32": "I32", "uint8": "U8"}
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    body, offset = [], 0
    for name in sorted(tensors):
        raw = tensors[name].astype(tensors[name].dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": names[tensors[name].dtype.name], "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + len(raw)],
        }  # fmt: skip
        body.append(raw)
        offset += len(raw)
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + b"".join(body)


def decode(raw: bytes, names: dict[str, str]) -> dict[str, NDArray[Any]]:
    """The tensors of a file that has exactly these, one row each. Raises DataError.

    Args:
        names: name → dtype, ``I64 I32 U8``.
    """
    types: dict[str, tuple[str, type[Any]]] = {
        "I64": ("<i8", np.int64),
        "I32": ("<i4", np.int32),
        "U8": ("u1", np.uint8),
    }
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or not 2 <= size <= HEADER_BYTES_MAX:
        raise DataError("this is no lattice file: its header has no usable size")
    try:
        header = json.loads(raw[8 : 8 + size])
        header.pop("__metadata__", None)
        if header.keys() != names.keys():
            raise DataError(f"a lattice file holds {', '.join(sorted(names))}")
        found, body = {}, memoryview(raw)[8 + size :]
        for name, kind in names.items():
            begin, end = header[name]["data_offsets"]
            if header[name]["dtype"] != kind or type(begin) is not int or type(end) is not int:
                raise DataError(f"{name} is not of type {kind}")
            if not 0 <= begin <= end <= len(body):
                raise DataError(f"{name} lies outside the file")
            little, own = types[kind]
            found[name] = np.frombuffer(body[begin:end], little).astype(own)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"this is no lattice file: {type(error).__name__}") from error
    return found


def digest(tensors: dict[str, NDArray[Any]]) -> bytes:
    """sha256 over the tensors' file without metadata: 32 bytes."""
    return hashlib.sha256(encode(tensors, {})).digest()


# ---- a published lattice

_PUBLISHED = {"base": "I64", "counts": "I32", "keys": "I64", "read": "U8", "recipe": "U8", "seen": "U8"}


@dataclass(frozen=True, slots=True)
class Published:
    """What a contribution publishes: the joined lattice, and what its base was.

    Attributes:
        base: (characters, different runs of four) of the joined bases, and different runs in what was read now.
        recipe: digest of the recipe that says how to use it, 32 bytes: what two recipes publish is never the same.
    """

    lattice: Lattice
    base: tuple[int, int, int]
    recipe: bytes

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What is digested and stored."""
        one = self.lattice
        return {
            "base": np.array(self.base, np.int64), "counts": one.counts.astype(np.int32), "keys": one.keys,
            "read": one.read.astype(np.uint8), "recipe": np.frombuffer(self.recipe, np.uint8), "seen": one.seen,
        }  # fmt: skip

    @property
    def params(self) -> bytes:
        """The digest that a claim names: 32 bytes."""
        return digest(self.tensors())

    def encode(self, slice_characters: int) -> bytes:
        """The file; its metadata follows from the tensors and is for readers that look no further."""
        base_characters, base_runs, own_runs = self.base
        about = {
            "format": FORMAT,
            "characters": characters_read(self.lattice.read, slice_characters), "entries": len(self.lattice.keys),
            "runs": sketch.count(self.lattice.seen), "base_characters": base_characters, "base_runs": base_runs,
            "own_runs": own_runs, "error_ppm": sketch.ERROR_PPM,
        }  # fmt: skip
        return encode(self.tensors(), {name: str(value) for name, value in about.items()})


def read_file(path: Path) -> bytes:
    """The bytes of a lattice or state. Raises DataError for more than any can have, before they are read."""
    size, most = path.stat().st_size, HEADER_BYTES_MAX + 8 + 12 * ENTRIES_MAX + 2 * sketch.REGISTERS
    if size > most:
        raise DataError(f"this lattice has {size} bytes; at most {most} are read")
    return path.read_bytes()


def published(raw: bytes, slice_characters: int) -> Published:
    """Read a published lattice. Raises DataError for anything but the one form that ``encode`` gives."""
    found = decode(raw, _PUBLISHED)
    if found["base"].shape != (3,) or int(found["base"].min()) < 0 or found["recipe"].shape != (32,):
        raise DataError("a lattice says three numbers of its base, and 32 bytes of its recipe")
    lattice = Lattice(
        found["keys"], found["counts"].astype(np.int64), found["read"].astype(np.int64), found["seen"]
    )
    check(lattice, slice_characters)
    first, second, third = found["base"].tolist()
    one = Published(lattice, (first, second, third), found["recipe"].tobytes())
    if one.encode(slice_characters) != raw:
        raise DataError("this lattice is not in canonical form")
    return one
