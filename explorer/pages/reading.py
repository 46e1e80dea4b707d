"""What a lattice has read, from the header of its file: how much, about how many different runs of four characters.

The numbers follow from what verifiers recompute (spec/53-lattice.md), so they are as good as the record's verdict. The
file is not opened beyond its header; where it is not here, or is another one, nothing is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from explorer.show import CID_RE

FORMAT = "spore-borg-lattice/1"
HEADER_BYTES_MAX = 4_096
NUMBER_MAX = 1 << 53
_FIELDS = frozenset(("slice", "slices", "rows", "bases"))  # of a lattice's recipe and of no other
_NUMBERS = ("characters", "base_characters", "runs", "base_runs", "own_runs", "entries", "error_ppm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the joined lattice of an experiment has read, and how much of it is new."""

    characters: int
    base_characters: int  # of the lattices that it started from
    entries: int
    runs: int  # about so many different runs of four characters
    runs_error: int  # standard error of that
    own_runs: int  # different ones in what this experiment read itself
    new_runs: int  # of these, what its bases had not seen
    known_runs: int  # and what they had


def reading(home: Path, weights: str | None, recipe: Mapping[str, object]) -> Reading | None:
    """The reading of an experiment on a lattice; None for others, and where its file is not here.

    Args:
        home: the node's directory. weights: the id of the published file.
    """
    if weights is None or not recipe.keys() >= _FIELDS or not CID_RE.fullmatch(weights):
        return None
    about = _about(home / "blobs" / weights)
    if about is None:
        return None
    new = max(0, about["runs"] - about["base_runs"])
    return Reading(
        characters=about["characters"], base_characters=about["base_characters"], entries=about["entries"],
        runs=about["runs"], runs_error=about["runs"] * about["error_ppm"] // 1_000_000, own_runs=about["own_runs"],
        new_runs=min(new, about["own_runs"]), known_runs=max(0, about["own_runs"] - new),
    )  # fmt: skip


def _about(path: Path) -> dict[str, int] | None:
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            head = file.read(size) if size <= HEADER_BYTES_MAX else b""
        said = json.loads(head)["__metadata__"]
        if said["format"] != FORMAT:
            return None
        numbers = {name: int(said[name]) for name in _NUMBERS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return numbers if all(0 <= number < NUMBER_MAX for number in numbers.values()) else None
