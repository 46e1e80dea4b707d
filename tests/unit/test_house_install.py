"""tools/install.py: which torch it chooses on which machine. No package is installed here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "install.py"
RANGE = "torch>=2.9,<3"


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house_install", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Machine:
    """Stands in for the machine: what pip lists, whether plain torch brings CUDA, whether there is a card."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, install: ModuleType, **facts: object) -> None:
        self.listing = str(facts.get("listing", "Available versions: 2.15.0, 2.14.0"))
        self.cuda = facts.get("cuda", ["nvidia-cublas", "triton"])
        self.asked: list[list[str]] = []
        monkeypatch.setattr(install, "installed", lambda _range: facts.get("installed"))
        monkeypatch.setattr(install, "has_nvidia_gpu", lambda: bool(facts.get("gpu")))
        monkeypatch.setattr(install, "would_bring_cuda", lambda _range: self.cuda)
        monkeypatch.setattr(install.sys, "platform", facts.get("platform", "linux"))
        monkeypatch.setattr(install.subprocess, "run", self.run)

    def run(self, command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        self.asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=self.listing, stderr="")


def test_what_is_there_is_kept(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, install, installed="2.11.0+rocm6.4")
    why, command = install.choose(RANGE)
    assert command == [] and "2.11.0+rocm6.4" in why and machine.asked == []


@pytest.mark.parametrize("facts", [{"platform": "darwin"}, {"platform": "win32"}, {"gpu": True}])
def test_plain_torch_where_it_is_right(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, facts: dict[str, object]
) -> None:
    Machine(monkeypatch, install, **facts)
    assert install.choose(RANGE)[1][-1] == RANGE


def test_newest_cpu_build_that_pip_sees(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(
        monkeypatch,
        install,
        listing="Available versions: 3.0.0+cpu, 2.15.0, 2.9.1+cpu, 2.13.0+cpu, 2.8.0+cpu",
    )
    assert install.choose(RANGE)[1][-1] == "torch==2.13.0+cpu"


def test_plain_torch_where_it_brings_no_cuda(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, install, cuda=[])
    assert install.choose(RANGE)[1][-1] == RANGE


def test_uv_as_the_last_way(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, install)
    why, command = install.choose(RANGE)
    assert "--torch-backend=cpu" in command and command[-1] == RANGE
    assert "2 CUDA packages" in why


def test_versions_are_ordered_as_numbers(install: ModuleType) -> None:
    assert install.newest_cpu_build("2.9.1+cpu, 2.10.0+cpu", RANGE) == "2.10.0+cpu"
    assert install.newest_cpu_build("2.15.0, 2.14.0+cu130", RANGE) is None


def test_cuda_packages_are_recognised(install: ModuleType) -> None:
    names = ["torch", "nvidia-cudnn-cu13", "triton", "cuda-bindings", "numpy", "Nvidia_NVTX"]
    report = json.dumps({"install": [{"metadata": {"name": name}} for name in names]})
    assert install.cuda_packages(report) == ["Nvidia_NVTX", "cuda-bindings", "nvidia-cudnn-cu13", "triton"]


def test_the_range_of_the_project_can_be_read(install: ModuleType) -> None:
    low, high = install.bounds(install.torch_range())
    assert (2,) < low < high


def test_it_says_in_one_line_what_it_chose() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--dry-run"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("torch: ") and done.stdout.count("\n") == 1
