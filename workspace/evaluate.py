"""The evaluator: losses of fixed blocks of validation text, computed from logits by the harness.

A recipe cannot report its own loss. Each block is ``block_tokens / seq`` windows of the task's ``seq``; its loss
is summed over the window's targets in double precision and rounded once, to integer nano-bits. Document marks
stand for no bytes and are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from workspace.data import DataError, Dataset


class NotFinite(DataError):
    """Weights whose loss is not a number: they cannot have been claimed."""


def windows(task: Mapping[str, Any], data: Dataset, block: int) -> NDArray[np.int64]:
    """The windows of a block, [block_tokens / seq, seq + 1]: inputs and the target after the last one."""
    seq, per_block = int(task["seq"]), int(task["block_tokens"]) // int(task["seq"])
    count = per_block * int(task["blocks"])
    stride = (len(data.val) - 1) // count
    if stride < seq:
        raise DataError(f"the task needs {count * seq + 1} validation tokens, the data has {len(data.val)}")
    starts = (np.arange(per_block) + block * per_block) * stride
    return np.asarray(data.val[starts[:, None] + np.arange(seq + 1)], np.int64)


def val_bytes(task: Mapping[str, Any], data: Dataset) -> int:
    """Bytes that the targets of all blocks stand for: the divisor of the metric, fixed in the task."""
    blocks = range(int(task["blocks"]))
    return sum(int(data.token_bytes[windows(task, data, block)[:, 1:]].sum()) for block in blocks)


@torch.no_grad()
def losses(
    model: nn.Module,
    task: Mapping[str, Any],
    data: Dataset,
    blocks: Sequence[int],
    device: torch.device,
) -> list[int]:
    """The loss of each block in nano-bits, in the order asked for; one block is one forward pass.

    A block's loss does not depend on which other blocks are asked for. Raises DataError for an unknown block,
    NotFinite for weights that give no number.
    """
    model.eval()
    found: list[int] = []
    for block in blocks:
        if not 0 <= block < int(task["blocks"]):
            raise DataError(f"no block {block}; the task has blocks 0 to {int(task['blocks']) - 1}")
        tokens = torch.from_numpy(windows(task, data, block))
        logits = model(tokens[:, :-1].to(device)).float().cpu()
        targets = tokens[:, 1:]
        nats = -torch.log_softmax(logits.double(), -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        counted = torch.from_numpy(data.token_bytes)[targets] > 0
        bits = float((nats * counted).sum()) / math.log(2)
        if not math.isfinite(bits):
            raise NotFinite(f"the loss of block {block} is not finite")
        found.append(round(bits * 1e9))
    return found


def metric(task: Mapping[str, Any], block_losses: Sequence[int]) -> int:
    """Nano-bits per byte from the losses of all blocks."""
    return sum(block_losses) // int(task["val_bytes"])
