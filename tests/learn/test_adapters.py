"""Adapters: items in, feeds, vectors, features and answers out; tokenizers; generation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from spore_borg.learn import run
from spore_borg.learn.adapters import FEATURES_MAX, Adapter, adapter
from spore_borg.learn.adapters.base import fold
from spore_borg.learn.adapters.lm import CausalLm, CharLm, MaskedLm
from spore_borg.learn.adapters.senses import FileType, ImageClassifier, Pitch, Raw
from spore_borg.learn.adapters.tokens import SMILES, tokenizer
from spore_borg.learn.errors import LearnError
from spore_borg.learn.graph import Model
from tests.learn import models


def made(files: models.Files) -> tuple[Model, Adapter]:
    model = models.imported(files)
    # Settings travel as JSON in a shard.
    return model, adapter(json.loads(json.dumps(dict(model.adapter))), model.assets)


def answers(model: Model, one: Adapter, items: list[Any], **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for _, feeds in one.feeds(items):
        found += one.answer(run.run(model.graph, model.weights, feeds), feeds, **options)
    return found


@pytest.mark.parametrize("kind", sorted(models.TINY))
def test_every_adapter_gives_one_row_per_item_in_order(tmp_path: Path, kind: str) -> None:
    model, one = made(models.TINY[kind](tmp_path))
    items = models.items(model.info.modality, 19 if model.info.modality != "audio" else 3)
    seen, vectors, features, said = list[int](), [], [], []
    for places, feeds in one.feeds(items):
        seen += places
        assert set(feeds) >= {port.name for port in model.graph.inputs}
        outputs = run.run(model.graph, model.weights, feeds)
        vectors.append(one.vectors(outputs, feeds))
        features.append(one.features(outputs, feeds))
        said += one.answer(outputs, feeds)
        assert len(vectors[-1]) == len(features[-1]) == len(places)
    assert seen == list(range(len(items)))
    rows = torch.cat(vectors)
    assert rows.dtype == torch.float32 and bool(rows.isfinite().all())
    assert torch.cat(features).shape[1] <= FEATURES_MAX and bool(torch.cat(features).isfinite().all())
    # Other items have other vectors: nothing constant is compared.
    assert float((rows[0] - rows[1]).abs().max()) > 1e-4
    assert (one.head, one.modality) == (model.info.head, model.info.modality)
    json.dumps(said, allow_nan=False)


@pytest.mark.parametrize("kind", sorted(models.TINY))
def test_an_item_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    model, one = made(models.TINY[kind](tmp_path))
    wrong: Any = 7 if model.info.modality == "bytes" else b"\0"
    with pytest.raises(LearnError, match="This model takes"):
        list(one.feeds([wrong]))


@pytest.mark.parametrize("kind", ["bert", "albert", "gpt2", "lstm", "static"])
def test_any_text_can_be_fed(tmp_path: Path, kind: str) -> None:
    model, one = made(models.TINY[kind](tmp_path))
    feeds = next(one.feeds(["", " ", "\0", "é🙂" * 300, "word " * 500, "the king"]))[1]
    assert bool(one.vectors(run.run(model.graph, model.weights, feeds), feeds).isfinite().all())


def test_masks_are_filled_where_the_user_put_them(tmp_path: Path) -> None:
    model, one = made(models.tiny_albert(tmp_path))
    assert isinstance(one, MaskedLm)
    answer = answers(model, one, ["CC[MASK]O[MASK]N"], top=3)[0]
    assert [mask["place"] for mask in answer["masks"]] == [3, 5]
    assert all(len(mask["tokens"]) == 3 for mask in answer["masks"])
    best = [mask["tokens"][0]["token"] for mask in answer["masks"]]
    assert answer["text"] == f"CC{best[0]}O{best[1]}N"
    ids, places = one.masked("CCOCCN")
    assert [ids[place] for place in sorted(set(places))] == [one.tokens.mask] * 3


def test_a_text_classifier_names_its_classes(tmp_path: Path) -> None:
    model, one = made(models.tiny_bert(tmp_path, "classifier"))
    classes = answers(model, one, ["the king", "bread and water"])[0]["classes"]
    assert {row["label"] for row in classes} == {"no", "yes", "perhaps"}
    assert math.isclose(sum(row["probability"] for row in classes), 1.0, abs_tol=1e-5)
    assert classes == sorted(classes, key=lambda row: -row["probability"])


def test_a_tagger_labels_every_token(tmp_path: Path) -> None:
    model, one = made(models.tiny_bert(tmp_path, "sequence_tagger"))
    tokens = answers(model, one, ["the king said", "bread"])[0]["tokens"]
    assert [row["token"] for row in tokens] == ["the", "king", "said"]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "lstm"])
def test_completion_is_greedy_or_drawn_from_a_seed(tmp_path: Path, kind: str) -> None:
    model, one = made(models.TINY[kind](tmp_path))
    assert isinstance(one, CausalLm)

    def runner(feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return run.run(model.graph, model.weights, feeds)

    greedy = one.complete(runner, "The king", {"max_tokens": 5})
    assert greedy == one.complete(runner, "The king", {"max_tokens": 5, "seed": 9})
    assert greedy["tokens"] == 5 or greedy["stopped"]
    drawn = [
        one.complete(runner, "The king", {"max_tokens": 8, "temperature": 3.0, "seed": s}) for s in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert one.complete(runner, "The king", {"max_tokens": 5, "temperature": 3.0, "top_k": 1}) == greedy
    assert one.complete(runner, "", {"max_tokens": 1})["tokens"] <= 1
    # The first token of a greedy completion is the likeliest of the answer.
    if greedy["tokens"]:
        assert greedy["text"].startswith(answers(model, one, ["The king"])[0]["next"][0]["token"])


def test_bits_per_character_is_what_the_tokens_cost(tmp_path: Path) -> None:
    model, one = made(models.tiny_gpt2(tmp_path))
    assert isinstance(one, CausalLm)
    text, nats = "the king", 0.0
    for stop in range(1, len(text)):
        feeds = next(one.feeds([text[:stop]]))[1]
        logits = run.run(model.graph, model.weights, feeds)["logits"][0]
        nats -= float(torch.log_softmax(logits, 0)[one.tokens.encode(text[stop])[0]])
    want = nats / math.log(2) / (len(text) - 1)
    got = one.bits_per_char(lambda feeds: run.run(model.graph, model.weights, feeds), text)
    assert math.isclose(got, want, rel_tol=1e-4)


def test_a_character_model_sees_a_window_with_zeros_before_the_text(tmp_path: Path) -> None:
    _, one = made(models.tiny_lstm_lm(tmp_path))
    assert isinstance(one, CharLm)
    ids = next(one.feeds(["ab", "x" * 60]))[1]["input_ids"]
    assert ids.shape == (2, 40)
    assert ids[0].tolist() == [0] * 38 + one.tokens.encode("ab")
    assert ids[1].tolist() == one.tokens.encode("x") * 40


def test_smiles_are_cut_into_atoms_bonds_and_rings(tmp_path: Path) -> None:
    assert SMILES.findall("Clc1c[nH]cc1%12>>BrC(=O)[O-]") == [
        "Cl", "c", "1", "c", "[nH]", "c", "c", "1", "%12", ">>", "Br", "C", "(", "=", "O", ")", "[O-]",
    ]  # fmt: skip
    model, _ = made(models.tiny_albert(tmp_path))
    tokens = tokenizer(model.adapter["tokenizer"], model.assets)
    assert tokens.decode(tokens.encode("c1cc[nH]c1")) == "c1cc[nH]c1"


def test_wordpiece_from_a_vocabulary_is_berts(tmp_path: Path) -> None:
    model, _ = made(models.tiny_bert(tmp_path))
    tokens = tokenizer(model.adapter["tokenizer"], model.assets)
    said = [tokens.token(place) for place in tokens.encode("The KING's ox")]
    assert said == ["[CLS]", "the", "king", "'", "s", "o", "##x", "[SEP]"]
    assert tokens.special(tokens.encode("a")[0])


def test_byte_tokenizers_lose_no_character(tmp_path: Path) -> None:
    model, _ = made(models.tiny_gpt2(tmp_path))
    tokens = tokenizer(model.adapter["tokenizer"], model.assets)
    text = "naïve 🙂\n\tend"
    assert tokens.decode(tokens.encode(text)) == text


@pytest.mark.parametrize(
    ("spec", "assets", "said"),
    [
        ({"kind": "tokenizers"}, {}, "lacks its file tokenizer.json"),
        ({"kind": "tokenizers"}, {"tokenizer.json": b"{}"}, "cannot be read"),
        ({"kind": "tokenizers"}, {"tokenizer.json": b"\xff"}, "cannot be read"),
        ({"kind": "chars"}, {"vocab.json": b'{"a": "b"}'}, "is no vocabulary"),
        ({"kind": "spm"}, {}, "is not supported"),
    ],
)
def test_damaged_tokenizers_are_refused(spec: dict[str, Any], assets: dict[str, bytes], said: str) -> None:
    with pytest.raises(LearnError, match=said):
        tokenizer(spec, assets)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"kind": "dance", "head": "embedder", "modality": "text"},
        {"kind": "pitch", "head": "hat", "modality": "audio"},
        {"kind": "pitch", "head": "sequence_tagger", "modality": "audio"},
        {"kind": "image-classifier", "head": "classifier", "modality": "image", "side": 3},
        {"kind": "raw", "head": "unknown", "modality": "bytes", "sizes": ["x"]},
        {"kind": "raw", "head": "unknown", "modality": "bytes", "sizes": [1 << 20, 1 << 20]},
        {
            "kind": "audio-tagger",
            "head": "sequence_tagger",
            "modality": "audio",
            "frame": 9,
            "hop": 0,
            "before": 0,
        },
        {
            "kind": "audio-tagger",
            "head": "sequence_tagger",
            "modality": "audio",
            "frame": 1 << 40,
            "hop": 64,
            "before": 0,
        },
    ],
)
def test_damaged_settings_are_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(LearnError):
        adapter(spec, {})


def test_images_are_resized_inverted_and_normalised(tmp_path: Path) -> None:
    _, one = made(models.tiny_cnn(tmp_path))
    assert isinstance(one, ImageClassifier)
    digit = torch.zeros((28, 28), dtype=torch.uint8)
    digit[8:20, 12:16] = 255
    large = digit.repeat_interleave(4, 0).repeat_interleave(4, 1)
    ink = 255 - large
    colour = large.unsqueeze(2).expand(-1, -1, 3)
    feeds = next(one.feeds([digit, large, ink, colour]))[1]["image"]
    assert feeds.shape == (4, 1, 28, 28)
    black, white = (0 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081
    assert math.isclose(float(feeds[0].min()), black, abs_tol=1e-5)
    assert math.isclose(float(feeds[0].max()), white, abs_tol=1e-5)
    assert torch.allclose(feeds[2], feeds[1], atol=1e-4)
    assert torch.allclose(feeds[3], feeds[1], atol=1e-4)
    assert float((feeds[1] - feeds[0]).abs().mean()) < 0.15
    with pytest.raises(LearnError, match=r"An image is \[h, w\]"):
        list(one.feeds([torch.zeros(3)]))


def test_features_of_images_are_the_classes_alone(tmp_path: Path) -> None:
    """Hidden units of an untrained network would help a readout as random features do."""
    model, one = made(models.tiny_cnn(tmp_path))
    assert model.graph.outputs == ("logits",) and "hidden" not in model.adapter
    _, feeds = next(one.feeds([torch.arange(784, dtype=torch.uint8).reshape(28, 28)]))
    outputs = dict(run.run(model.graph, model.weights, feeds))
    features = one.features(outputs, feeds)
    assert torch.allclose(features.exp().sum(1), torch.ones(1))
    named = adapter({**model.adapter, "hidden": "h"}, model.assets)
    assert torch.equal(named.features({**outputs, "h": torch.ones(1, 64)}, feeds), features)


def test_sound_is_cut_into_frames_with_context(tmp_path: Path) -> None:
    _, one = made(models.tiny_audio(tmp_path))
    wave = torch.arange(1, 1025, dtype=torch.int16)
    frames = next(one.feeds([wave]))[1]["frames"] * 32768
    assert frames.shape == (2, 576)
    assert frames[0, :64].tolist() == [0.0] * 64
    assert frames[0, 64:].tolist() == list(range(1, 513))
    assert frames[1].tolist() == list(range(449, 1025))
    assert next(one.feeds([torch.zeros(0, dtype=torch.int16)]))[1]["frames"].shape == (1, 576)
    with pytest.raises(LearnError, match="too long"):
        list(one.feeds([torch.zeros(16_000 * 601, dtype=torch.int16)]))


def test_speech_segments_are_stretches_above_the_threshold(tmp_path: Path) -> None:
    _, one = made(models.tiny_audio(tmp_path))
    shares = torch.tensor([0.1, 0.9, 0.8, 0.2, 0.7])
    answer = one.answer({"probability": shares.reshape(5, 1, 1)}, {})[0]
    assert math.isclose(answer["share"], 0.6)
    spans = [(segment["start_s"], segment["end_s"]) for segment in answer["segments"]]
    assert spans == [(0.032, 0.096), (0.128, 0.16)]


def test_pitch_is_the_weighted_mean_around_the_peak(tmp_path: Path) -> None:
    _, one = made(models.tiny_pitch(tmp_path))
    assert isinstance(one, Pitch)
    # A4 = 440 Hz is 6551.3 cents above 10 Hz, bin 227.7.
    rows = torch.zeros(1, 360)
    rows[0, 227], rows[0, 228] = 0.3, 0.7
    assert abs(1200 * math.log2(float(one.hertz(rows)[0]) / 440)) < 1
    assert one.answer({"probability": torch.full((2, 360), 0.01)}, {})[0]["hz"] is None


def test_files_are_fed_by_their_ends_without_white_space() -> None:
    spec = {
        "kind": "file-type", "head": "classifier", "modality": "bytes", "beg_size": 4, "end_size": 4,
        "block_size": 8, "padding_token": 256, "input": "x", "dtype": "int64", "labels": ["a"], "output": "y",
    }  # fmt: skip
    one = adapter(spec, {})
    assert isinstance(one, FileType)
    rows = next(one.feeds([b"  abcdef  ", b"ab", b"", b" \n"]))[1]["x"].tolist()
    assert rows[0] == [*b"abcd", *b"cdef"]
    assert rows[1] == [*b"ab", 256, 256, 256, 256, *b"ab"]
    assert rows[2] == rows[3] == [256] * 8


def test_raw_bytes_are_float32_where_the_size_says_so() -> None:
    spec = {
        "kind": "raw",
        "head": "unknown",
        "modality": "bytes",
        "sizes": [2, 2],
        "input": "x",
        "output": "y",
    }
    one = adapter(spec, {})
    assert isinstance(one, Raw)
    exact = torch.tensor([1.5, -2.0, 0.25, 8.0])
    rows = next(one.feeds([exact.numpy().tobytes(), b"\xff", b"", b"\0" * 99]))[1]["x"]
    assert rows.shape == (4, 2, 2)
    assert torch.equal(rows[0].flatten(), exact)
    assert rows[1].flatten().tolist() == [1.0, 0.0, 0.0, 0.0]


def test_folding_keeps_inner_products_on_average() -> None:
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(64, 2_048, generator=generator)
    folded = fold(values, 512)
    assert folded.shape == (64, 512)
    norms = folded.square().sum(1) / values.square().sum(1)
    assert 0.9 < float(norms.mean()) < 1.1
    assert torch.equal(fold(values, 4_096), values)


def test_lines_of_text_are_decoded_from_their_steps() -> None:
    spec = {
        "kind": "text-reader", "head": "sequence_tagger", "modality": "image", "input": "x", "output": "y",
        "size": [48, 320],
    }  # fmt: skip
    one = adapter(spec, {"characters.txt": b"a\nb\n "})
    steps = torch.full((1, 7, 4), 0.01)
    for step, place in enumerate([0, 1, 1, 0, 1, 2, 3]):
        steps[0, step, place] = 0.9
    answer = one.answer({"y": steps}, {})[0]
    assert answer["text"] == "aab "
    assert [frame["step"] for frame in answer["frames"]] == [1, 4, 5, 6]
    assert one.answer({"y": torch.eye(4)[:1].expand(1, 5, 4)}, {})[0]["text"] == ""
    narrow, wide = (feeds["x"] for _, feeds in one.feeds([torch.zeros((24, 30)), torch.zeros((24, 400))]))
    assert (narrow.shape, wide.shape) == ((1, 3, 48, 320), (1, 3, 48, 800))
    assert one.vectors({"y": steps}, {}).shape[0] == one.features({"y": steps}, {}).shape[0] == 1


def test_notes_are_stretches_of_keys_in_overlapping_windows() -> None:
    spec = {
        "kind": "notes", "head": "sequence_tagger", "modality": "audio", "input": "x", "rate_hz": 22_050,
        "window": 43_844, "overlap": 7_680, "outputs": {"contour": "c", "note": "n", "onset": "o"},
    }  # fmt: skip
    one = adapter(spec, {})
    feeds = next(one.feeds([torch.zeros(16_000 * 3, dtype=torch.int16)]))[1]
    assert feeds["x"].shape == (2, 43_844, 1)
    # A sample of the first window's overlap is the second window's beginning.
    ramp = next(one.feeds([torch.arange(-24_000, 24_000).to(torch.int16)]))[1]["x"]
    assert torch.equal(ramp[0, 43_844 - 7_680 :, 0], ramp[1, :7_680, 0])
    note = torch.zeros(2, 172, 88)
    note[0, 100:, 48], note[1, :60, 48] = 0.9, 0.9
    outputs = {"n": note, "o": note, "c": torch.zeros(2, 172, 264)}
    found = one.answer(outputs, feeds)[0]["notes"]
    assert [row["label"] for row in found] == ["A4"]
    # 15 frames of each window's ends are shared; 142 are left, 11.55 ms each.
    assert abs(found[0]["start_s"] - 85 * 0.01155) < 0.01
    assert abs(found[0]["end_s"] - (142 + 45) * 0.01155) < 0.01
    assert one.features(outputs, feeds).shape == (1, 512)
    with pytest.raises(LearnError, match="too long"):
        list(one.feeds([torch.zeros(16_000 * 121, dtype=torch.int16)]))
