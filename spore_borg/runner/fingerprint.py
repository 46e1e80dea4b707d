"""The measured fingerprint: two devices with the same one are expected to compute the same bits.

It hashes the outputs of a reference suite together with what is known to change them: the torch build, the
instruction set that its kernels dispatch to, the thread count and the precision. Torch is imported on call.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

SUITE = "suite-1"  # change it when the suite changes: fingerprints of different suites never agree


def _input(device: str, index: int, *shape: int) -> Tensor:
    """Values in -1 … 1, exact in float32, the same everywhere."""
    import torch

    raw = np.random.Philox(key=np.array([20, index], np.uint64)).random_raw(int(np.prod(shape)))
    values = (raw >> np.uint64(41)).astype(np.float32) / np.float32(1 << 22) - np.float32(1)
    return torch.from_numpy(values.reshape(shape)).to(device)


def _suite(device: str) -> list[Tensor]:
    """Outputs of matmul, attention, layer norm, an Adam step, odd-sized reductions and elementary functions."""
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    out: list[Tensor] = []
    for index, (rows, inner, columns) in enumerate(
        ((64, 64, 192), (1024, 64, 1024), (127, 65, 33), (1, 257, 7))
    ):
        out.append(_input(device, index, rows, inner) @ _input(device, 10 + index, inner, columns))
    q, k, v = (_input(device, 20 + i, 4, 2, 61, 32).requires_grad_() for i in range(3))
    if device == "cpu":
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        with sdpa_kernel(SDPBackend.MATH):
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out += [attended, *torch.autograd.grad(attended.square().sum(), (q, k, v))]
    x = _input(device, 30, 33, 129).requires_grad_()
    normed = F.layer_norm(x, (129,))
    out += [normed, *torch.autograd.grad((normed * _input(device, 31, 33, 129)).sum(), x)]
    logits = _input(device, 32, 65, 1024).requires_grad_()
    loss = F.cross_entropy(logits * 8, torch.arange(65, device=device))
    out += [loss, *torch.autograd.grad(loss, logits)]
    weight = _input(device, 40, 65, 31).requires_grad_()
    optimizer = torch.optim.AdamW([weight], lr=3e-3, foreach=False)
    for index in range(3):
        weight.grad = _input(device, 41 + index, 65, 31)
        optimizer.step()
    out.append(weight)
    for index, size in enumerate((1_000_003, 4_097, 31)):
        row = _input(device, 50 + index, size)
        out += [row.sum(), row.square().mean(), row.norm(), row.logsumexp(0)]
    row = _input(device, 60, 4_099) * 4
    out += [row.exp(), row.tanh(), torch.sigmoid(row), F.gelu(row), row.abs().sqrt(), row.sin()]
    return [tensor.detach() for tensor in out]


def measure(device: str = "cpu", threads: int = 1) -> bytes:
    """The fingerprint of a device of this process, 32 bytes; takes well under a second on a CPU."""
    import torch

    about: dict[str, object] = {
        "suite": SUITE,
        "torch": torch.__version__,
        "precision": "fp32",
        "threads": threads if device == "cpu" else 0,
        "dispatch": torch.backends.cpu.get_cpu_capability() if device == "cpu" else device,
    }
    if device == "cuda":
        about["cuda"] = [torch.version.cuda, torch.cuda.get_device_capability(), torch.cuda.get_device_name()]
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for tensor in _suite(device):
        total.update(np.ascontiguousarray(tensor.cpu().numpy(), dtype="<f4").tobytes())
    return total.digest()
