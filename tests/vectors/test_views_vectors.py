"""Every story of ``spec/vectors/verdicts`` folds to what its file expects, and no story is missing."""

from __future__ import annotations

import json
import random

import pytest

from tests.vectors.verdict_stories import FOLDER, STORIES, expected, told


@pytest.mark.parametrize("name", sorted(STORIES))
def test_story_folds_as_its_file_says(name: str, rng: random.Random) -> None:
    records, wanted = told(name)
    rng.shuffle(records)
    assert json.loads(json.dumps(expected(records))) == wanted


def test_stories_and_files_are_the_same() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(STORIES)


def test_stories_tell_every_verdict() -> None:
    seen = {claim["verdict"] for name in STORIES for claim in told(name)[1]["claims"]}
    assert seen >= {"accepted", "refuted", "void", "solo"}
