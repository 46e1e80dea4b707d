"""What every command promises: --help, --json, exit codes, errors that say what to do, a cheap start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from spore_borg import cli
from spore_borg.cli.frame import one_line, table

from .conftest import Borg

HEAVY = {
    "torch",
    "trio",
    "networkx",
    "starlette",
    "scipy",
    "optuna",
    "numpy",
    "rich",
    "sqlite3",
    "uvicorn",
    "nacl",
}
MAIN = [sys.executable, "-c", "from spore_borg.cli import main; main()"]
# Arguments without which a command cannot be called at all.
ARGUMENTS = {
    "show": ["bafy"],
    "diff": ["bafy"],
    "connect": ["127.0.0.1:1"],
    "verify": ["."],
    "config get": ["no.such.setting"],
    "config set": ["no.such.setting", "1"],
}
ACTS = {"run", "demo", "explorer", "init", "bench"}  # would begin to work in an empty home


def walk(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))
        yield (*path, name), command


TREE = dict(walk(cli.cli))
LEAVES = {path: command for path, command in TREE.items() if not isinstance(command, click.Group)}


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_every_command_has_help(borg: Borg, path: tuple[str, ...]) -> None:
    result = borg(*path, "--help")
    assert result.code == 0 and result.out.startswith(f"Usage: borg {' '.join(path)}")


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_json(borg: Borg, path: tuple[str, ...]) -> None:
    assert "--json" in borg(*path, "--help").out


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_usage_errors_are_json_too(borg: Borg, path: tuple[str, ...]) -> None:
    result = borg(*path, "--json", "--no-such-option")
    assert result.code == 2 == result.value["error"]["code"]
    assert (
        result.value["error"]["kind"] == "UsageError"
        and "--no-such-option" in result.value["error"]["message"]
    )


@pytest.mark.usefixtures("quick_torch")
@pytest.mark.parametrize("path", [path for path in LEAVES if path[0] not in ACTS], ids=" ".join)
def test_an_empty_home_gives_a_value_or_an_error_as_json(
    borg: Borg, tmp_path: Path, path: tuple[str, ...]
) -> None:
    result = borg("--home", tmp_path / "none", *path, *ARGUMENTS.get(" ".join(path), []), "--json")
    assert result.code in {0, 1, 2, 4, 5, 6}, result
    assert result.value.get("error", {"kind": ""})["kind"] != "Defect"
    if result.code > 1:
        assert result.value["error"]["code"] == result.code and result.value["error"]["message"]
    assert not (tmp_path / "none").exists(), "reading made a directory"


def test_the_table_of_commands_has_every_file_and_its_first_line() -> None:
    folder = Path(cli.__file__).parent
    assert {path.stem.removeprefix("cmd_") for path in folder.glob("cmd_*.py")} == set(cli.COMMANDS)
    for name, text in cli.COMMANDS.items():
        assert TREE[(name,)].name == name
        assert text.endswith(".") and len(text) <= 70


def test_errors_go_to_stderr_as_one_line_without_traceback(borg: Borg, tmp_path: Path) -> None:
    result = borg("--home", tmp_path, "log")
    assert result.code == 4 and result.out == "" and result.err.count("\n") == 1
    assert "borg run" in result.err and "Traceback" not in result.err


def test_verbose_shows_the_traceback(borg: Borg, tmp_path: Path) -> None:
    assert "Traceback" in borg("-v", "--home", tmp_path, "log").err


def test_a_near_name_is_offered(borg: Borg) -> None:
    result = borg("fronteir")
    assert result.code == 2 and "Did you mean 'frontier'?" in result.err


def test_a_defect_is_told_as_one(borg: Borg, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("spore_borg.cli.cmd_version.cli.output", broken)
    result = borg("version", "--json")
    assert result.code == 3 and result.value["error"]["kind"] == "Defect" and "Traceback" in result.err


def test_interrupted(borg: Borg, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spore_borg.cli.cmd_version.cli.output", interrupted)
    assert borg("version").code == 130


def test_a_closed_pipe_is_no_error() -> None:
    pipe = subprocess.Popen([*MAIN, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert pipe.stdout is not None and pipe.stderr is not None
    pipe.stdout.close()
    complaint = pipe.stderr.read()
    pipe.stderr.close()
    assert pipe.wait(timeout=30) == 0 and complaint == b""


def test_ctrl_c_ends_a_waiting_command(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control.sock"))
        silent.listen()
        silent.settimeout(30)
        child = subprocess.Popen([*MAIN, "--home", str(tmp_path), "peers"], stderr=subprocess.PIPE)
        accepted, _ = silent.accept()
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, complaint = child.communicate(timeout=30)
        accepted.close()
    assert child.returncode == 130 and b"Traceback" not in complaint


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *MAIN[1:], "--help"], capture_output=True, text=True, check=True
    )
    loaded = {
        line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
    assert "click" in loaded and not loaded & HEAVY
    commands = {line for line in done.stderr.splitlines() if "spore_borg.cli.cmd_" in line}
    assert not commands, "borg --help imports commands"


def test_the_home_comes_from_option_environment_or_platform(
    borg: Borg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPORE_BORG_HOME", str(tmp_path / "environment"))
    assert str(tmp_path / "environment") in borg("log").err
    assert str(tmp_path / "option") in borg("--home", tmp_path / "option", "log").err
    monkeypatch.delenv("SPORE_BORG_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "spore-borg" in borg("log").err


def test_both_names_are_installed_by_the_project() -> None:
    import tomllib

    root = Path(cli.__file__).parents[2]
    scripts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"borg": "spore_borg.cli:main", "spore-borg": "spore_borg.cli:main"}


def test_doctor_gives_a_fix_for_what_is_not_fine(borg: Borg, tmp_path: Path) -> None:
    result = borg("--home", tmp_path, "doctor", "--json")
    checks = {check["name"]: check for check in result.value["checks"]}
    assert set(checks) == {"python", "torch", "borg", "sqlite", "directory", "disk", "port", "clock"}
    assert all(check["fix"] for check in checks.values() if check["level"] != "ok")
    assert result.code == (0 if result.value["ok"] else 1)


def test_doctor_finds_a_foreign_borg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spore_borg.cli import checks

    (tmp_path / "borg").write_text("#!/bin/sh\n")
    (tmp_path / "borg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = checks.program()
    assert found.level == "warn" and "spore-borg" in found.fix


def test_doctor_finds_a_clock_behind_its_own_files(tmp_path: Path) -> None:
    from spore_borg.cli import checks

    (tmp_path / "log.sqlite").touch()
    assert checks.clock(tmp_path).level == "ok"
    ahead = time.time() + 3600
    os.utime(tmp_path / "log.sqlite", (ahead, ahead))
    assert checks.clock(tmp_path).level == "bad"


def test_tables_align_and_stay_on_one_line() -> None:
    text = table(["name", "n>"], [("a\nb", 5), ("c", 1234)])
    assert text.splitlines() == ["name     n", "a b      5", "c     1234"]
    assert table(["name"], [], empty="none") == "none"
    assert one_line("a\x1b[31m\u202eb") == "a [31m b"


def test_json_is_one_value(borg: Borg) -> None:
    assert json.loads(borg("version", "--json").out)["spore-borg"]
