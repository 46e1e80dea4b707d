"""The recipe of a lattice experiment: what is read, which rows are written, and how counts become probabilities.

As ``workspace.recipe``, for another task: typed, bounded fields, no code, no floats. ``rows`` and ``bases`` are not
searched but given: the rows of the ranges whose turn is this node's, and the digests of the lattices to start from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

# Shapes of a field and of an error only; every bound that decides a result stands here.
from workspace.recipe import Field, Recipe, RecipeError, Value

SLICES_MAX = 4
ROWS_MAX = 255  # one bit for each of eight ranges
_BASES = re.compile(r"([0-9a-f]{64}(,[0-9a-f]{64})?)?")

FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Field("slice", "int", "first slice that is read, of 63", low=0, high=62),
        Field("slices", "int", "slices that are read, in a row", low=1, high=SLICES_MAX),
        Field(
            "smoothing", "int", "weight of the shorter context, in 1/256 of a count", low=16, high=65_536, log=True
        ),
        Field("exclusion", "int", "what W_rho takes from a count at most, in 1/256", low=0, high=1_024),
        Field("escape", "int", "what one seen character weighs against one never seen", low=1, high=256, log=True),
        Field(
            "backoff", "choice", "shorter context: sums of counts, or kinds of neighbours",
            choices=("sums", "kinds"),
        ),
        Field(
            "weights", "choice", "slices count equally, or by what each saves on a text that nobody counts",
            choices=("equal", "income"),
        ),
    )
}  # fmt: skip
GIVEN = ("rows", "bases")

BASELINE: Recipe = {
    "slice": 0, "slices": 1, "smoothing": 1_024, "exclusion": 0, "escape": 64, "backoff": "sums", "weights": "equal",
    "rows": ROWS_MAX, "bases": "",
}  # fmt: skip


def show(_name: str, value: Value) -> str:
    """A value as a person writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def validate(recipe: Mapping[str, object]) -> Recipe:
    """The recipe with its fields in table order, every one checked. Raises RecipeError, which names the field."""
    names = (*FIELDS, *GIVEN)
    unknown = sorted(set(recipe) - set(names))
    if unknown:
        raise RecipeError(f"no recipe field {unknown[0][:60]!r}; the fields are {', '.join(names)}")
    checked: Recipe = {}
    for name in names:
        if name not in recipe:
            raise RecipeError(f"{name} is missing")
        checked[name] = _checked(name, recipe[name])
    return checked


def _checked(name: str, value: object) -> Value:
    spec = FIELDS.get(name)
    if name == "bases":
        if type(value) is not str or not _BASES.fullmatch(value):
            raise RecipeError(
                "bases is none, one or two digests of 64 hexadecimal characters with a comma between"
            )
        return value
    if spec is None or spec.kind == "int":
        low, high = (1, ROWS_MAX) if spec is None else (spec.low, spec.high)
        if type(value) is not int or not low <= value <= high:
            raise RecipeError(f"{name} is {str(value)[:40]!r}; it takes {low} to {high}")
        return value
    if type(value) is not str or value not in spec.choices:
        raise RecipeError(f"{name} is {str(value)[:40]!r}; it takes {spec.allowed()}")
    return value


def digest(recipe: Mapping[str, Value]) -> bytes:
    """sha256 of the recipe as sorted, compact JSON: 32 bytes."""
    text = json.dumps(dict(recipe), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).digest()


def bases_of(recipe: Recipe) -> tuple[str, ...]:
    """The digests of the lattices that a recipe starts from."""
    return tuple(str(recipe["bases"]).split(",")) if recipe["bases"] else ()


def slices_of(recipe: Recipe) -> tuple[int, ...]:
    """The slices that a recipe reads, in order; after the last comes the first."""
    return tuple((int(recipe["slice"]) + number) % 63 for number in range(int(recipe["slices"])))
