"""Recipes: bounds, text, digests and differences."""

from __future__ import annotations

import random

import pytest

from workspace import harness, recipe, tasks
from workspace.recipe import BASELINE_NANO, FIELDS, RecipeError, Value


def test_every_baseline_is_valid_on_its_task() -> None:
    for name in tasks.NAMES:
        task = tasks.spec(name)
        tasks.check(task)
        assert recipe.validate(task["baseline"], seq_max=task["seq"]) == task["baseline"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 7}, "lr is 0.000007; it takes 0.00001 to 0.1"),
        ({"depth": 9}, "depth is 9; it takes 1 to 8"),
        ({"depth": True}, "depth is true"),
        ({"tie": 1}, "tie is 1; it takes true or false"),
        ({"act": "tanh"}, "act is tanh; it takes one of gelu"),
        ({"width": 33}, "width is 33"),
        ({"lr": 0.003}, "lr is 0.003; it takes"),
        ({"width": 48, "heads": 8}, "multiple of 4"),
        ({"warmup": 500_000, "warmdown": 900_000}, "warmup + warmdown is 1.4"),
        ({"code": "import os"}, "no recipe field 'code'"),
        ({"seq": 128}, "this task takes at most 64"),
    ],
)
def test_a_recipe_out_of_bounds_names_field_and_bounds(change: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.validate({**BASELINE_NANO, **change}, seq_max=64)
    assert words in str(caught.value)


def test_a_missing_field_is_named() -> None:
    short = {name: value for name, value in BASELINE_NANO.items() if name != "zloss"}
    with pytest.raises(RecipeError, match="zloss is missing"):
        recipe.validate(short)


def test_shown_values_parse_back() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for name, field in FIELDS.items():
        value: Value
        if field.kind == "bool":
            value = chance.random() < 0.5
        elif field.kind == "choice":
            value = chance.choice(field.choices)
        else:
            value = chance.randint(field.low, field.high)
        assert recipe.parse(name, recipe.show(name, value)) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("lr", "nan"), ("lr", "1e-9"), ("lr", "x"), ("tie", "maybe"), ("depth", "1.5"), ("no", "1")],
)
def test_text_that_is_no_value_is_refused(name: str, text: str) -> None:
    with pytest.raises(RecipeError):
        recipe.parse(name, text)


def test_show_writes_plain_decimals() -> None:
    assert recipe.show("lr", 3_000) == "0.003"
    assert recipe.show("mlp_ratio", 4_000_000) == "4"
    assert recipe.show("clip", 0) == "0"
    assert recipe.show("width", 100) == "100"


def test_digest_ignores_order_and_sees_every_field() -> None:
    other = dict(reversed(BASELINE_NANO.items()))
    assert recipe.digest(other) == recipe.digest(BASELINE_NANO)
    changed = {**BASELINE_NANO, "tie": not BASELINE_NANO["tie"]}
    assert recipe.digest(changed) != recipe.digest(BASELINE_NANO)
    assert recipe.diff(BASELINE_NANO, changed) == [("tie", False, True)]
    assert b" " not in recipe.canonical(changed)


def test_harness_digest_is_stable_within_an_installation() -> None:
    assert harness.harness_digest() == harness.harness_digest()
    assert len(harness.harness_digest()) == 32


def test_a_curve_is_short_and_covers_the_run() -> None:
    assert harness.curve([]) == []
    assert harness.curve([1.0, 2.0]) == [1_000_000, 2_000_000]
    long = harness.curve([float(i) for i in range(1_000)])
    assert len(long) == 64
    assert long == sorted(long)
    assert round(sum(long) / 64e6) == pytest.approx(500, abs=1)
