from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import spore_borg
from spore_borg.learn.adapters import adapter
from spore_borg.learn.answers import Bank, Voice
from spore_borg.learn.errors import LearnError
from spore_borg.learn.spike.convert import convert
from tests.learn import models

MADE = {
    "bert": (models.tiny_bert, "text"),
    "static": (models.tiny_static_embedder, "text"),
    "lstm": (models.tiny_lstm_lm, "text"),
    "albert": (models.tiny_albert, "smiles"),
    "cnn": (models.tiny_cnn, "image"),
    "audio": (models.tiny_audio, "audio"),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """One directory of tiny shards, converted once."""
    out = tmp_path_factory.mktemp("shards")
    for name, (make, modality) in MADE.items():
        model = models.imported(make(tmp_path_factory.mktemp(name)), name)
        reader = adapter(model.adapter, model.assets)
        feeds = [feeds for _, feeds in reader.feeds(models.items(modality, 8))]
        convert(model, feeds, steps=6, out=out / f"{name}.safetensors")
    return out


def test_a_directory_of_shards_is_a_state(shards):
    state = spore_borg.load(shards)
    assert {member.name: member.head for member in state.members} == {
        "bert": "embedder", "static": "embedder", "lstm": "causal_lm", "albert": "masked_lm", "cnn": "classifier",
        "audio": "sequence_tagger",
    }  # fmt: skip


def test_two_embedders_stand_side_by_side(shards):
    state = spore_borg.load(shards)
    texts = ["a b c", "c b a", "the heron"]
    both = state.embed(texts)
    one, other = state.embed(texts, model="bert"), state.embed(texts, model="static")
    assert both.shape == (3, one.shape[1] + other.shape[1])
    np.testing.assert_allclose(both @ both.T, (one @ one.T + other @ other.T) / 2, atol=1e-5)


def test_weights_weigh(shards):
    voices = [Voice("x", shards / "bert.safetensors", 3.0), Voice("y", shards / "static.safetensors", 1.0)]
    said = Bank().answer("embed", voices, [{"text": "a b"}], {})[0]
    assert [model["weight"] for model in said["models"]] == [0.75, 0.25]
    first = np.array(said["embedding"])[: len(said["embedding"]) - 24]
    assert float(first @ first) == pytest.approx(0.75, abs=1e-5)


def test_classes_of_a_picture_and_of_sound(shards, tmp_path):
    state = spore_borg.load(shards)
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "a.png")
    labels = state.classify([tmp_path / "a.png"], modality="image", top=3)[0]["labels"]
    assert len(labels) == 3
    assert labels[0]["probability"] >= labels[1]["probability"]
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(16_000, "<i2").tobytes())
    said = state.classify([tmp_path / "a.wav"], modality="audio")[0]
    assert 0 <= said["labels"][0]["probability"] <= 1
    assert said["models"][0]["frames"]


def test_text_goes_on_the_same_way_from_the_same_seed(shards):
    state = spore_borg.load(shards)
    first = state.complete("the ", max_tokens=8, temperature=1.0, seed=4)
    assert first["text"].startswith("the ")
    assert first == state.complete("the ", max_tokens=8, temperature=1.0, seed=4)


def test_masks_are_filled(shards):
    said = spore_borg.load(shards).complete("CC(=O)[MASK]", modality="smiles", top=2)
    assert len(said["models"][0]["masks"]) == 1
    assert len(said["models"][0]["masks"][0]) == 2


def test_models_that_know_the_same_classes_are_averaged(shards, tmp_path):
    Image.fromarray(np.full((28, 28), 60, np.uint8)).save(tmp_path / "a.png")
    path = shards / "cnn.safetensors"
    alone = Bank().answer("classify", [Voice("x", path, 1.0)], [{"path": str(tmp_path / "a.png")}], {})[0]
    twice = [Voice("x", path, 1.0), Voice("y", path, 2.0)]
    both = Bank().answer("classify", twice, [{"path": str(tmp_path / "a.png")}], {})[0]
    for a, b in zip(alone["labels"], both["labels"], strict=True):
        assert a["label"] == b["label"]
        assert a["probability"] == pytest.approx(b["probability"])


def test_what_cannot_be_answered_is_told(shards, tmp_path):
    with pytest.raises(LearnError, match="no shard"):
        spore_borg.load(tmp_path)
    state = spore_borg.load(shards)
    with pytest.raises(LearnError, match="borg state"):
        state.embed(["a"], model="absent")
    with pytest.raises(LearnError, match="no question"):
        Bank().answer("sing", [Voice("x", shards / "bert.safetensors", 1.0)], [], {})


def test_a_list_from_elsewhere_reaches_nothing_outside(shards, tmp_path):
    entry = {"name": "n", "head": "embedder", "modality": "text", "cid": "b", "weight": 1}
    (tmp_path / "state.json").write_text(json.dumps({"models": [{**entry, "file": "../../etc/passwd"}]}))
    member = spore_borg.load(tmp_path).members[0]
    assert member.voice.path == tmp_path / "passwd"
    (tmp_path / "state.json").write_text("[]")
    with pytest.raises(LearnError, match="damaged"):
        spore_borg.load(tmp_path)


def test_answers_need_no_gradients(shards):
    spore_borg.load(shards).embed(["a"])
    assert torch.is_grad_enabled()
