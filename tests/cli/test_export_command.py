"""``borg export``: tables to files and stdout, other tools' stores, and errors that say what to do."""

from __future__ import annotations

import csv
import hashlib
import json
import sqlite3
from pathlib import Path

import pyarrow.parquet
import pytest

from explorer.export import TABLES

from .conftest import BASE, BETTER, Borg


def test_one_table_goes_to_stdout(borg: Borg, home: Path) -> None:
    result = borg("--home", home, "export", "experiments", "--format", "ndjson")
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert [row["cid"] for row in rows] == [BETTER[0], BASE[0]]
    assert rows[0]["metric"] == 2_280_000_000
    assert rows[0]["recipe"] == {"lr": 6000, "width": 64}
    lines = list(csv.DictReader(borg("--home", home, "export", "ledger").out.splitlines()))
    assert lines[0]["amount"] == str(1 << 20)


def test_all_tables_in_one_folder_and_again(borg: Borg, home: Path, tmp_path: Path) -> None:
    for form in ("csv", "ndjson", "parquet"):
        out = tmp_path / form
        value = borg("--home", home, "export", "--format", form, "-o", out, "--json").value
        assert {file["table"] for file in value["files"]} == set(TABLES)
        assert {path.name for path in out.iterdir()} == {f"{name}.{form}" for name in TABLES}
        counts = {file["table"]: file["rows"] for file in value["files"]}
        assert (counts["records"], counts["experiments"], counts["evidence"]) == (2, 2, 2)
        before = {path: path.read_bytes() for path in out.iterdir()}
        assert borg("--home", home, "export", "--format", form, "-o", out).code == 0
        assert before == {path: path.read_bytes() for path in out.iterdir()}


def test_the_name_of_the_file_says_the_form(borg: Borg, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "runs.parquet"
    assert borg("--home", home, "export", "experiments", "-o", file).code == 0
    assert pyarrow.parquet.read_table(file).column("metric").to_pylist() == [2_280_000_000, 2_290_000_000]
    assert not list(tmp_path.glob("*.part"))


def test_other_tools(borg: Borg, home: Path, tmp_path: Path) -> None:
    value = borg("--home", home, "export", "--format", "mlflow", "-o", tmp_path / "m", "--json").value
    assert (value["runs"], value["projects"]) == (2, ["nano-btask"])
    assert "mlflow ui" in value["open_with"]
    metrics = {path.read_text().split()[1] for path in (tmp_path / "m").rglob("metrics/val_bpb")}
    assert metrics == {"2.28", "2.29"}
    said = borg("--home", home, "export", "--format", "trackio", "-o", tmp_path / "t").out
    assert "2 runs in 1 project" in said
    assert "TRACKIO_DIR=" in said
    db = sqlite3.connect(tmp_path / "t" / "nano-btask.db")
    logged = [json.loads(row[0]) for row in db.execute("SELECT metrics FROM metrics")]
    db.close()
    assert {step["val_bpb"] for step in logged} == {2.28, 2.29}


def test_nothing_is_written_into_the_home(borg: Borg, home: Path, tmp_path: Path) -> None:
    def digests() -> dict[str, str]:
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in home.glob("*.sqlite")}

    before = digests()
    assert borg("--home", home, "export", "-o", tmp_path / "out").code == 0
    assert digests() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "There is no table nonsense; there are records"),
        ([], "-o DIR"),
        (["ledger", "tasks"], "Only one table fits on stdout"),
        (["ledger", "--json"], "say where with -o"),
        (["--format", "mlflow"], "say where with -o DIR"),
        (["ledger", "--format", "mlflow", "-o", "x"], "leave ledger out"),
        (["ledger", "--newest", "3"], "--newest is for"),
        (["ledger", "-o", "x.csv", "--format", "ndjson"], "Make them agree"),
    ],
)
def test_bad_input_says_what_to_do(borg: Borg, home: Path, arguments: list[str], says: str) -> None:
    result = borg("--home", home, "export", *arguments)
    assert result.code == 2
    assert says in result.out + result.err


def test_a_folder_that_is_a_file(borg: Borg, home: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    result = borg("--home", home, "export", "-o", tmp_path / "taken")
    assert result.code == 2
    assert (tmp_path / "taken").read_text() == "mine"


def test_no_node_has_run_there(borg: Borg, tmp_path: Path) -> None:
    result = borg("--home", tmp_path / "none", "export", "-o", tmp_path / "out")
    assert result.code == 4
    assert not (tmp_path / "out").exists()
