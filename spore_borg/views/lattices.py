"""Tasks whose experiments grow one character lattice: what has been read of it, from recipes alone.

Spec: spec/53-lattice.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spore_borg.records.bodies import Task

KIND = "lattice"
READABLE = 63  # slices of the text that may be read
RANGES = 8  # ranges of rows, one bit each
NAMES_BASES = "bases"  # the recipe's field that says by content what the record's bases say by id

Recipe = Mapping[str, int | bool | str]


def is_lattice(task: Task) -> bool:
    """Whether a task's experiments are lattices."""
    return task.spec.get("kind") == KIND


def slices_of(recipe: Recipe) -> tuple[int, ...]:
    """The slices that a valid recipe reads; after the last comes the first."""
    return tuple((int(recipe["slice"]) + number) % READABLE for number in range(int(recipe["slices"])))


def joined(reads: Sequence[Mapping[int, int]]) -> dict[int, int]:
    """Slice → ranges that any of these have read."""
    found: dict[int, int] = {}
    for read in reads:
        for number, ranges in read.items():
            found[number] = found.get(number, 0) | ranges
    return found
