"""The table of `borg bench`: medians with their spread, ratios in the right direction, targets judged, gaps said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench._report import Measured, Report
from tests.bench._rows import MARK, ROWS, emit, missing


def report() -> Report:
    found = Report({"date": "2026-01-01"})
    found.add("ours", {"row": "sync_mix_cpu", "values": [3.5, 2.0, 9.0]})
    found.add("ours", {"row": "ingest_experiments_wall", "values": [5_000], "note": "on disk"})
    found.add("Spore", {"row": "ingest_experiments_wall", "values": [1_000]})
    found.add("ours", {"row": "restart_bytes", "values": [5.0]})
    found.add("Spore", {"row": "restart_bytes", "values": [40_000]})
    return found


def test_the_median_stands_with_its_spread() -> None:
    assert Measured([3.5, 2.0, 9.0]).text(2) == "3.50 (2.00–9.00, 3 ×)"
    assert Measured([1_234.5]).text(0) == "1,234 (once)"


def test_a_ratio_over_one_is_for_us_and_missed_targets_are_said() -> None:
    lines = {line[0]: line for line in report().lines()}
    ingest, sync, restart = (
        lines[ROWS[name].title] for name in ("ingest_experiments_wall", "sync_mix_cpu", "restart_bytes")
    )
    assert ingest[4:] == ("5 ×", "≥ 10 × Spore", "**no**")
    assert restart[4:] == ("8,000 ×", "≤ 10", "yes")
    assert sync[3:] == ("–", "", "≤ 3", "**no**")


def test_without_the_peer_a_target_against_it_stays_open() -> None:
    found = Report({})
    found.add("ours", {"row": "spread_ms", "values": [9.0]})
    assert found.lines()[0][-1] == "?"


def test_a_row_that_nobody_declared_is_refused() -> None:
    with pytest.raises(KeyError, match="not declared"):
        Report({}).add("ours", {"row": "speed", "values": [1.0]})


def test_what_a_script_emits_is_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    emit("spread_ms", [1, 2.5], "on disk")
    line = capsys.readouterr().out
    assert line.startswith(MARK)
    assert json.loads(line) == {"row": "spread_ms", "values": [1.0, 2.5], "note": "on disk"}
    with pytest.raises(ValueError, match="no value"):
        emit("spread_ms", [])


def test_what_cannot_be_measured_is_told_and_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    missing("merge: mergekit is not installed: pip install mergekit")
    found = Report({})
    bench.take(found, "ours", capsys.readouterr().out)
    assert found.missing == ["merge: mergekit is not installed: pip install mergekit"]
    assert "- Not measured: merge: mergekit is not installed" in found.markdown("borg bench")


def test_a_script_that_fails_is_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "broken.py"
    script.write_text('print(\'{"row": "spread_ms", "values": [4]}\')\nraise OSError(\'no socket\')\n')
    found = Report({})
    bench.measure(found, "ours", [bench.sys.executable, str(script)], 20)
    assert found.ours["spread_ms"].median == 4
    assert len(found.missing) == 1 and "no socket" in found.missing[0] and found.missing[0].startswith("ours")
    assert "not measured: ours" in found.text() and "Not measured: ours" in found.markdown("borg bench")
    assert "Traceback" in capsys.readouterr().err


def test_what_a_script_had_measured_before_its_time_was_up_stays(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        'import time\nprint(\'{"row": "spread_ms", "values": [4]}\', flush=True)\ntime.sleep(60)\n'
    )
    found = Report({})
    bench.measure(found, "ours", [bench.sys.executable, str(script)], 3)
    assert found.ours["spread_ms"].median == 4
    assert "not done within 3 s" in found.missing[0]


def test_some_rows_measured_again_keep_the_others_and_say_so() -> None:
    again = Report({"date": "2026-01-02"})
    again.add("ours", {"row": "restart_bytes", "values": [7.0]})
    again.keep({**report().to_json(), "missing": ["ours live: broken", "ours sync: broken"]}, ["sync"])
    assert again.ours["restart_bytes"].median == 7
    assert again.peer["ingest_experiments_wall"].values == [1_000]
    assert again.ours["ingest_experiments_wall"].note == "on disk"
    assert again.missing == ["ours live: broken"]
    assert "2026-01-01" in again.about["all but sync"]


def test_every_script_is_there() -> None:
    for name in bench.SCRIPTS:
        assert "__main__" in (bench.HERE / f"{name}.py").read_text(encoding="utf-8")
    assert set(bench.PEER_SCRIPTS) <= set(bench.SCRIPTS)
