"""Spore Mesh 0.3.9 in an environment of its own, made on first use.

``rm -r .venv-peer`` removes it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

VERSION = "0.3.9"
# Its records, graph, gossip and pages need these; torch and what else its training needs is left out on purpose.
NEEDS = ("pynacl>=1.5", "rich>=13", "click>=8.1", "numpy>=1.24", "requests>=2.32", "fastapi>=0.115")
INSTALL_LIMIT_S = 240


class PeerUnavailable(Exception):
    """Spore cannot be installed here; the message says why."""


def python(root: Path) -> Path:
    """The interpreter that has sporemesh.

    Raises:
        PeerUnavailable: it cannot be installed (no network, say).
    """
    home = root / ".venv-peer"
    found, stamp = home / "bin" / "python", home / f".sporemesh-{VERSION}"
    if stamp.exists():
        return found
    pip = [str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(home)],
            [*pip, *NEEDS],
            [*pip, "--no-deps", f"sporemesh=={VERSION}"],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "no output").strip().splitlines()[-1]
        raise PeerUnavailable(f"sporemesh {VERSION} cannot be installed: {last}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailable(f"sporemesh {VERSION} cannot be installed: {error}") from error
    stamp.touch()
    return found
