"""Install torch into the virtual environment that runs this script, without CUDA where there is no GPU.

The plain build of torch for Linux brings several gigabytes of CUDA packages. On a machine without an NVIDIA card
they are of no use, so this script looks for a build without them before it lets pip choose. It names no package
host: what it may use is what pip, or uv, is configured to see. Reasons: ``docs/adr/0002-torch-installation.md``.

Prints one line that says what was chosen. Exit status: that of the installer.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA_PACKAGES = re.compile(r"^(nvidia[-_].*|cuda[-_].*|triton|pytorch[-_]triton.*)$")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
TRIED_VERSION = re.compile(r"\b(\d+\.\d+(?:\.\d+)?\+cpu)\b")


def torch_range() -> str:
    """The requirement on torch from ``pyproject.toml``, for example ``torch>=2.9,<3``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next(str(line) for line in project["dependencies"] if re.match(r"torch\b", line))


def bounds(requirement: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lowest version allowed and the first one that is not, of a requirement ``torch>=A,<B``."""
    found = re.fullmatch(r"torch>=([\d.]+),<([\d.]+)", requirement)
    if found is None:
        raise SystemExit(f"tools/install.py: cannot read the range {requirement!r}; write it as torch>=A,<B")
    return version(found[1]), version(found[2])


def version(text: str) -> tuple[int, ...]:
    """``2.13.0+cpu`` as ``(2, 13, 0)``."""
    return tuple(int(part) for part in text.split("+", maxsplit=1)[0].split("."))


def newest_cpu_build(listing: str, requirement: str) -> str | None:
    """The newest version with the local label ``+cpu`` within the range, from what ``pip index versions`` prints."""
    low, high = bounds(requirement)
    builds = {text for text in TRIED_VERSION.findall(listing) if low <= version(text) < high}
    return max(builds, key=version, default=None)


def cuda_packages(report: str) -> list[str]:
    """Names of the CUDA packages in an installation report of pip (JSON)."""
    names = [item["metadata"]["name"] for item in json.loads(report)["install"]]
    return sorted(name for name in names if CUDA_PACKAGES.match(name.lower()))


def installed(requirement: str) -> str | None:
    """Version of the torch already here, when it is in the range. Reads metadata only: torch is not imported."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    low, high = bounds(requirement)
    return done.stdout.strip() if low <= version(done.stdout.strip()) < high else None


def has_nvidia_gpu() -> bool:
    """Whether ``nvidia-smi`` lists a card."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and "GPU" in done.stdout


def choose(requirement: str) -> tuple[str, list[str]]:
    """What to install and why: a sentence, and the installer's command line (empty: nothing to do)."""
    here = installed(requirement)
    if here is not None:
        return f"torch {here} is already here", []
    plain = [*PIP, "install", "--quiet", requirement]
    if not sys.platform.startswith("linux"):
        return "plain torch (not Linux: that build brings no CUDA packages)", plain
    if has_nvidia_gpu():
        return "plain torch, with CUDA (nvidia-smi lists a card)", plain
    listing = subprocess.run(
        [*PIP, "index", "versions", "torch"], capture_output=True, text=True, check=False
    )
    build = newest_cpu_build(listing.stdout, requirement)
    if build is not None:
        return f"torch {build} (no NVIDIA card, and pip sees this build)", [*plain[:-1], f"torch=={build}"]
    cuda = would_bring_cuda(requirement)
    if not cuda:
        return "plain torch (it brings no CUDA packages here)", plain
    why = f"torch's CPU build by uv (no NVIDIA card; plain torch would bring {len(cuda)} CUDA packages)"
    return why, [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable,
                 "--torch-backend=cpu", requirement]  # fmt: skip


def would_bring_cuda(requirement: str) -> list[str]:
    """Names of the CUDA packages that plain pip would install. Downloads at most metadata where pip can."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [*PIP, "install", "--dry-run", "--quiet", "--report", str(report), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(done.stderr)
            raise SystemExit(f"tools/install.py: pip finds no {requirement}; is a package index reachable?")
        return cuda_packages(report.read_text(encoding="utf-8"))


def main() -> int:
    """Choose, say so in one line, install."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be installed")
    options = parser.parse_args()
    requirement = torch_range()
    why, command = choose(requirement)
    print(f"torch: {why}", flush=True)
    if options.dry_run or not command:
        return 0
    if "uv" in command:
        subprocess.run([*PIP, "install", "--quiet", "uv>=0.7"], check=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        print(
            "torch: the installer failed. Install a build of torch that suits this machine into this environment"
            " yourself, then run make again: it keeps what is there.",
            file=sys.stderr,
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
