"""The family of a device: the coarse hardware class, from its name alone. Imports no torch.

``CPU_X86_64``, ``CPU_AARCH64``, ``MPS``, or a CUDA card's normalised name such as ``RTX_3060`` or ``H100``.
What may be compared bit for bit is not the family but the measured fingerprint (`runner.fingerprint`).
"""

from __future__ import annotations

import platform
import re

_ARCHITECTURES = {
    "amd64": "X86_64",
    "x86_64": "X86_64",
    "x64": "X86_64",
    "arm64": "AARCH64",
    "aarch64": "AARCH64",
}
_NOISE = {
    "NVIDIA",
    "GEFORCE",
    "TESLA",
    "QUADRO",
    "GENERATION",
    "GPU",
    "GRAPHICS",
    "WITH",
    "MAX-Q",
    "DESIGN",
    "AMD",
}
_PACKAGING = re.compile(r"^(\d+GB|SXM\d*|PCIE|HBM\d*E?|NVL|SXM\d*-\d+GB|PCIE-\d+GB|MIG|\d+G\.\d+GB)$")
FAMILY_CHARS_MAX = 64


def cpu_family(machine: str | None = None) -> str:
    """The family of a CPU: ``CPU_`` and its architecture; ``machine`` defaults to this one's."""
    name = (machine or platform.machine() or "unknown").lower()
    return "CPU_" + _ARCHITECTURES.get(name, _clean(name))


def card_family(name: str) -> str:
    """The family of a CUDA card by the name its driver gives: ``NVIDIA GeForce RTX 3060`` is ``RTX_3060``."""
    kept: list[str] = []
    for word in name.upper().replace("(TM)", "").replace("(R)", "").split():
        first, *packaging = word.split("-")  # A100-SXM4-40GB
        if packaging and all(_PACKAGING.match(part) for part in packaging):
            word = first
        if word not in _NOISE and not _PACKAGING.match(word):
            kept.append(word)
    return _clean("_".join(kept)) or "CUDA_UNKNOWN"


def family(kind: str, card: str = "") -> str:
    """The family of a torch device kind: ``cpu``, ``mps`` or ``cuda`` (with the card's name)."""
    if kind == "cuda":
        return card_family(card)
    return "MPS" if kind == "mps" else cpu_family()


def _clean(text: str) -> str:
    return re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_")[:FAMILY_CHARS_MAX]
