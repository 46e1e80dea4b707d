"""What a conversion may look at: whole items, beginnings of texts for causal models; how far functions are coded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spore_borg.learn.adapters import adapter
from spore_borg.learn.calibrating import beginnings, calibration_feeds
from spore_borg.learn.graph import Node
from spore_borg.learn.spike.calibrate import Sample, threshold
from spore_borg.learn.spike.codes import FEW_SPIKE, Code
from spore_borg.learn.spike.plan import Place
from tests.learn import models

TEXTS = [f"He said to number {i} that it was so, and they went home." for i in range(16)]


def test_beginnings_are_cut_inside_a_text_at_places_that_differ() -> None:
    found = beginnings([*TEXTS, 'It was "so."', "no end", b"bytes.", ".", ""])
    assert found[:16] == [
        text[: len(one)] for text, one in zip(TEXTS, found, strict=False) if isinstance(one, str)
    ]
    assert len(found) == 17
    lengths = [len(one) for one in found[:16] if isinstance(one, str)]
    assert all(1 <= length < len(TEXTS[0]) for length in lengths)
    assert len(set(lengths)) > 12 and max(lengths) - min(lengths) > len(TEXTS[0]) // 2
    assert found == beginnings([*TEXTS, 'It was "so."', "no end", b"bytes.", ".", ""])


def test_only_causal_models_are_fed_beginnings(tmp_path: Path) -> None:
    for make, more in ((models.tiny_lstm_lm, 16), (models.tiny_gpt2, 16), (models.tiny_bert, 0)):
        folder = tmp_path / make.__name__
        folder.mkdir()
        model = models.imported(make(folder))
        feeds = calibration_feeds(model, TEXTS)
        assert sum(one["input_ids"].shape[0] for one in feeds) == len(TEXTS) + more
        # The whole items come first, as they are.
        first = next(adapter(model.adapter, model.assets).feeds(TEXTS))[1]
        assert all(torch.equal(feeds[0][name], value) for name, value in first.items())


@pytest.mark.parametrize(
    ("op", "function", "low", "high"),
    [
        ("Tanh", torch.tanh, -8e4, 2e5), ("Sigmoid", torch.sigmoid, -3e3, 9e3), ("Erf", torch.erf, -5e2, 5e2),
        ("Exp", torch.exp, -4e3, 0.0), ("Exp", torch.exp, -4e3, 2.0),
    ],
)  # fmt: skip
def test_no_level_is_spent_where_a_function_is_flat(
    op: str, function: object, low: float, high: float
) -> None:
    assert callable(function)
    # As the tanh inside a GELU sees it: its argument has a cube in it, and a few values are huge.
    sample = Sample((), (), torch.tensor([low]), torch.tensor([high]), seen=10_000)
    code = Code(FEW_SPIKE, 5)
    s = threshold(Place(Node(op, "f", ("x",), ("y",)), "function", (0,)), 0, sample, code).s
    x = torch.linspace(-20.0, min(high, 20.0), 4_001)
    held = code.fine(x, s) * s
    apart = (function(held) - function(x)).abs()
    assert float((apart / function(x).abs().clamp_min(1.0)).max()) < 0.01
