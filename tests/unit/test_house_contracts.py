"""The import contracts bite: each forbids what the house forbids, checked on a small project of the same shape."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ["cli", "mcp", "node", "runner", "sim", "policies", "store", "views", "protocol", "learn", "records"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project with our packages and our contracts."""
    for name in ("explorer", "workspace", "spore_borg", *(f"spore_borg/{floor}" for floor in FLOORS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    for name in ("errors", "limits", "config", "runner/worker", "runner/hardware"):
        (tmp_path / f"spore_borg/{name}.py").touch()
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(text[text.index("[tool.importlinter]") :], encoding="utf-8")
    return tmp_path


def holds(project: Path) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=project,
        env={"PYTHONPATH": str(project), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    return done.returncode == 0


def test_the_empty_project_keeps_every_contract(project: Path) -> None:
    assert holds(project)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("records", "import time"),
        ("views", "from random import random"),
        ("protocol", "import trio"),
        ("policies", "import sqlite3"),
        ("records", "import spore_borg.store"),
        ("views", "import spore_borg.protocol"),
        ("node", "import spore_borg.cli"),
        ("node", "import torch"),
        ("node", "import spore_borg.runner.worker"),
        ("../explorer", "import spore_borg.node"),
        ("../explorer", "from spore_borg.protocol import core"),
    ],
)
def test_a_breach_is_found(project: Path, module: str, line: str) -> None:
    (project / "spore_borg/protocol/core.py").touch()
    (project / "spore_borg" / module / "__init__.py").write_text(line + "\n", encoding="utf-8")
    assert not holds(project)
