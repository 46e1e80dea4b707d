"""Experiments as MLflow and trackio runs: all of them, exact, safe names, the same bytes again; read by those tools."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from explorer import foreign, mlflow_store, trackio_store
from explorer.db import Db
from explorer.export_rows import runs
from spore_borg.errors import UsageError
from spore_borg.records.cid import Cid
from tests.pages import fixtures
from tests.pages.test_server import bump

READERS = Path(__file__).with_name("readers")
INSTALL_LIMIT_S = 400
Homes = Callable[[str], Path]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("store", [mlflow_store, trackio_store])
@pytest.mark.parametrize("state", ["empty", "one", "hostile"])
def test_again_gives_the_same_bytes(store: Any, state: str, homes: Homes, tmp_path: Path) -> None:
    db = Db(homes(state))
    first = store.write(db, tmp_path / "out")
    before = tree(tmp_path / "out")
    again = store.write(db, tmp_path / "out")
    store.write(db, tmp_path / "other")
    db.close()
    assert tree(tmp_path / "out") == before == tree(tmp_path / "other")
    assert (again.runs, again.files_changed) == (first.runs, 0)
    assert first.runs == {"empty": 0, "one": 1, "hostile": 10}[state]
    if first.runs:
        assert first.files_changed == len(before)


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    home = fixtures.one(tmp_path / "home")
    out = tmp_path / "out"
    db = Db(home)
    mlflow_store.write(db, out)
    writer = sqlite3.connect(home / "views.sqlite")
    with writer:
        writer.execute("UPDATE experiment SET verdict = 'confirmed'")
    writer.close()
    bump(home, 9)
    assert mlflow_store.write(db, out).files_changed == 1
    assert [path.read_text() for path in out.rglob("borg.verdict")] == ["confirmed"]
    db.close()


def test_numbers_are_exact() -> None:
    assert foreign.decimal(2_271_543_210, 9) == "2.27154321"
    assert foreign.decimal(-1, 9) == "-0.000000001"
    assert foreign.decimal(0, 9) == "0"
    assert foreign.decimal(10**12, 9) == "1000"
    for value in (1, 123_456_789_012_345_678, -2_166_180_183):
        assert round(float(foreign.decimal(value, 9)) * 10**9) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..", "", "/", "a/b", "\x00", "C:\\x", "ü" * 300, ".part", "-rf"]
)
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    taken: dict[str, str] = {}
    first, second = foreign.key(name, taken), foreign.key(name, taken)
    assert first != second
    for found in (first, second):
        assert Path(found).name == found
        assert found not in {"", ".", ".."}
        assert found[0] not in ".-"
        assert len(found) <= foreign.KEY_CHARS + 4


def test_a_hostile_mesh_stays_inside(homes: Homes, tmp_path: Path) -> None:
    db = Db(homes("hostile"))
    mlflow_store.write(db, tmp_path / "out" / "deep")
    db.close()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["deep"]
    for path in (tmp_path / "out").rglob("*"):
        assert path.name.isascii()
    for path in (tmp_path / "out").rglob("meta.yaml"):
        assert all(len(line.split(": ", 1)) == 2 for line in path.read_text().splitlines())


def test_the_others_files_stay(homes: Homes, tmp_path: Path) -> None:
    db = Db(homes("one"))
    (tmp_path / "mine.txt").write_text("mine")
    mlflow_store.write(db, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    name = foreign.projects(foreign.task_briefs(db)).popitem()[1]
    (tmp_path / f"{name}.db").write_bytes(b"somebody else's")
    with pytest.raises(UsageError, match="stays as it is"):
        trackio_store.write(db, tmp_path)
    assert (tmp_path / f"{name}.db").read_bytes() == b"somebody else's"
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(UsageError, match="is a file"):
        mlflow_store.write(db, tmp_path / "mine.txt")
    db.close()


def test_only_the_newest(homes: Homes, tmp_path: Path) -> None:
    db = Db(homes("hostile"))
    assert mlflow_store.write(db, tmp_path / "out", newest=3).runs == 3
    newest = [Cid.parse(run.cid).digest.hex()[:32] for run in runs(db, None, 3)[0]]
    assert {path.parent.name for path in (tmp_path / "out").rglob("params")} == set(newest)
    db.close()


def venv(folder: Path, package: str) -> str:
    """The interpreter of an environment that has the package."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", package], check=True, timeout=INSTALL_LIMIT_S)
    return python


def wanted(home: Path) -> dict[str, Any]:
    db = Db(home)
    found = {run.id: run for run in foreign.every(db)}
    db.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("state", ["one", "hostile", "mesh"])
def test_mlflow_reads_it(state: str, homes: Homes, tmp_path: Path) -> None:
    python = os.environ.get("SPORE_BORG_MLFLOW_PYTHON") or venv(tmp_path / "venv", "mlflow-skinny>=3,<4")
    db = Db(homes(state))
    mlflow_store.write(db, tmp_path / "store")
    db.close()
    command = [python, str(READERS / "read_mlflow.py"), str(tmp_path / "store")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    want = wanted(homes(state))
    found = json.loads(said.stdout)
    assert {run["id"] for run in found} == set(want)
    for run in found:
        ours = want[run["id"]]
        assert (run["experiment"], run["name"], run["start_ms"]) == (ours.project, ours.name, ours.start_ms)
        assert run["status"] == ("FAILED" if ours.failed else "FINISHED")
        assert run["params"] == ours.params
        assert run["metrics"] == {name: float(points[-1].value) for name, points in ours.metrics.items()}
        assert {key: text for key, text in run["tags"].items() if key.startswith("borg.")} == ours.tags
    curves = [run for run in found if run["curve"]]
    for run in curves:
        points = want[run["id"]].metrics["train_loss"]
        assert run["curve"] == [[point.step, float(point.value)] for point in points]
    assert curves or state == "hostile"


@pytest.mark.slow
@pytest.mark.parametrize("state", ["one", "hostile", "mesh"])
def test_trackio_reads_it(state: str, homes: Homes, tmp_path: Path) -> None:
    python = os.environ.get("SPORE_BORG_TRACKIO_PYTHON") or venv(tmp_path / "venv", "trackio>=0.24,<1")
    db = Db(homes(state))
    trackio_store.write(db, tmp_path / "store")
    db.close()
    command = [python, str(READERS / "read_trackio.py")]
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "store"), "HF_HUB_OFFLINE": "1"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment)
    want = wanted(homes(state))
    found = json.loads(said.stdout)
    assert len(found) == min(60, len(want))
    for run in found:
        ours = want[run["id"]]
        assert (run["project"], run["name"]) == (ours.project, ours.name)
        assert run["config"].items() >= (ours.params | ours.tags).items()
        logged = {(step["step"], name): value for step in run["logs"] for name, value in step.items()}
        for name, points in ours.metrics.items():
            for point in points:
                assert logged[point.step, name] == float(point.value)
