"""`borg bench merge`: all means are of the same files and say the same, and without mergekit the report says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.bench import merge as bench
from tests.bench._rows import MARK, MISSING, ROWS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("merge")
    bench.make(made, 3, 1)
    return made


@pytest.mark.parametrize("kind", ["torch", "mean", "crdt", "crdt_state"])
def test_every_mean_is_the_mean_in_float64(folder: Path, kind: str) -> None:
    paths = [folder / f"{i}.safetensors" for i in range(3)]
    bench.KINDS[kind](paths, list(bench.WEIGHTS[:3]), folder / f"{kind}.merged.safetensors")
    nano = bench.apart(folder, kind, 3)
    assert 0 < nano < 200, "two steps of 2^-24 are 119 nano"


def test_the_copy_writes_what_one_merge_writes(folder: Path) -> None:
    paths = [folder / f"{i}.safetensors" for i in range(3)]
    bench.KINDS["copy"](paths, [1, 1, 1], folder / "copy.merged.safetensors")
    assert (folder / "copy.merged.safetensors").read_bytes() == paths[0].read_bytes()


def test_every_measured_kind_has_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    bench.tell({kind: [[2.0, 30.0], [4.0, 10.0]] for kind in bench.KINDS})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith(MARK)]
    assert {line["row"] for line in lines} <= set(ROWS)
    ratios = {line["row"]: line["values"] for line in lines if "_over_" in line["row"]}
    assert set(ratios) == {name for name in ROWS if name.startswith("merge_") and "_over_" in name}
    assert all(values == [1.0, 1.0] for values in ratios.values())


def test_a_kind_that_does_not_run_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run("torch", sys.executable, tmp_path, 2) is None
    said = capsys.readouterr().out
    assert said.startswith(MISSING)
    assert "torch does not run" in said


def test_mergekit_is_found_only_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.delenv("SPORE_BORG_BENCH_MERGEKIT", raising=False)
    monkeypatch.setattr(bench, "MERGEKIT", "no_such_module_at_all")
    assert bench.mergekit() is None
    monkeypatch.setattr(bench, "MERGEKIT", "json")
    assert bench.mergekit() is not None
