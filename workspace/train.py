"""The trainer: from (task, recipe, seed, data) to weights, with a state at every segment boundary.

The number of steps is a function of task and recipe alone: the FLOPs of one whole step are counted before
training, on a copy whose effects are discarded. Initial weights and batches are functions of (seed, step), so a
state is parameters, optimizer memory and the step number, and any segment can be run again from its start.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from workspace import random, tasks, tensors
from workspace.data import DataError, Dataset
from workspace.model import Gpt, real, whole
from workspace.optim import Optimizer, rate_at
from workspace.recipe import Recipe, RecipeError, validate

LOSS_MAX = 50.0  # nats a token; beyond it the run has diverged


class Crashed(Exception):
    """A run that ended before its last step for a reason of its recipe: an outcome, not a defect."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(f"{reason} at step {step}")
        self.step = step


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run costs, known before it starts."""

    steps: int
    flops_per_step: int  # charged: counted, or the task's floor if that is more
    params_count: int

    def boundary(self, index: int, segments: int) -> int:
        """The step at which segment ``index`` starts (and segment ``index - 1`` ends)."""
        return index * self.steps // segments


def deterministic() -> None:
    """Ask torch for bit-reproducible kernels in fp32; call once per process."""
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _attention_flops(query: Any, key: Any) -> int:
    # Counted in full, not halved for the causal mask, as torch counts the kernels that it knows.
    b, h, t, d = query
    return int(4 * b * h * t * key[2] * d)


def _flash_forward(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return _attention_flops(query, key)


def _flash_backward(
    grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return _attention_flops(query, key) * 5 // 2


def count_flops(work: Callable[[], object]) -> int:
    """Matmul FLOPs that ``work`` dispatches on the CPU, its attention kernel included."""
    aten = torch.ops.aten
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: _flash_forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _flash_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work()
    return int(counter.get_total_flops())


def loss_of(model: nn.Module, recipe: Recipe, tokens: Tensor) -> Tensor:
    """Mean cross-entropy in nats of sequences [B, T + 1], with the recipe's penalty."""
    logits = model(tokens[:, :-1]).float()
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    penalty = real(recipe, "zloss")
    return loss + penalty * logits.logsumexp(-1).square().mean() if penalty else loss


def _train_step(
    model: nn.Module, optimizer: Optimizer, recipe: Recipe, tokens: Tensor, place: tuple[int, int]
) -> Tensor:
    step, steps = place
    for parameter in model.parameters():
        parameter.grad = None
    loss = loss_of(model, recipe, tokens)
    torch.autograd.backward(loss)
    if recipe["clip"]:
        nn.utils.clip_grad_norm_(model.parameters(), real(recipe, "clip"))
    optimizer.update(step, rate_at(recipe, step, steps))
    return loss.detach()


def plan(task: Mapping[str, Any], recipe: Mapping[str, object]) -> Plan:
    """Steps, charged FLOPs per step and parameters of a recipe on a task; the same on every device.

    Raises:
        RecipeError: out of bounds, too many parameters, or too few steps for the task's segments.
        TaskError: the task lacks a setting.
    """
    tasks.check(task)
    checked = validate(recipe, seq_max=int(task["seq"]))
    names = ("budget_flops", "floor_flops_per_step", "steps_max", "params_max", "segments", "vocab", "seq")
    return _plan(tuple(int(task[name]) for name in names), json.dumps(checked))


@functools.lru_cache(maxsize=256)
def _plan(settings: tuple[int, ...], text: str) -> Plan:
    budget, floor, steps_max, params_max, segments, vocab, seq = settings
    recipe: Recipe = json.loads(text)
    model = Gpt(recipe, vocab, seq)
    params = sum(parameter.numel() for parameter in model.parameters())
    if params > params_max:
        raise RecipeError(f"the recipe makes {params} parameters; this task takes at most {params_max}")
    model.initialise(0)
    optimizer = Optimizer(model, recipe)
    tokens = torch.zeros((whole(recipe, "batch"), whole(recipe, "seq") + 1), dtype=torch.int64)
    counted = count_flops(lambda: _train_step(model, optimizer, recipe, tokens, (0, 1)))
    charged = max(counted, floor)
    steps = min(budget // charged, steps_max)
    if steps < segments:
        raise RecipeError(
            f"a step costs {charged} FLOPs, so the budget pays {steps} steps; at least {segments} are needed"
        )
    return Plan(steps, charged, params)


class Run:
    """One training run at some step; ``to`` advances it, ``digests`` and ``save`` describe where it stands."""

    def __init__(
        self, task: Mapping[str, Any], recipe: Mapping[str, object], seed: int, data: Dataset, device: str
    ) -> None:
        if not 0 <= seed < 2**64:
            raise DataError(f"the seed is {seed}; it must be from 0 to 2**64 - 1")
        self.task = task
        self.plan = plan(task, recipe)
        self.recipe = validate(recipe, seq_max=int(task["seq"]))
        self.seed = seed
        self.data = data
        self.device = torch.device(device)
        self.model = Gpt(self.recipe, int(task["vocab"]), int(task["seq"]))
        self.model.initialise(seed)
        self.model.to_device(self.device)
        self.optimizer = Optimizer(self.model, self.recipe)
        self.step = 0
        if len(data.token_bytes) != int(task["vocab"]):
            raise DataError(f"the data has {len(data.token_bytes)} tokens, the task {task['vocab']}")

    def batch(self, step: int) -> Tensor:
        """The sequences of a step, [B, T + 1]."""
        size, length = whole(self.recipe, "batch"), whole(self.recipe, "seq") + 1
        if len(self.data.train) <= length:
            raise DataError(f"the data has only {len(self.data.train)} training tokens")
        starts = random.batch_starts(self.seed, step, size, len(self.data.train) - length + 1)
        return torch.from_numpy(self.data.train[starts[:, None] + np.arange(length)]).to(self.device)

    def to(self, end: int, each: Callable[[int, float], None] | None = None) -> None:
        """Train up to step ``end``; ``each(step, loss)`` is called after every step and may raise to stop.

        Raises:
            Crashed: the loss is not finite, or above LOSS_MAX.
        """
        self.model.train()
        while self.step < end:
            place = (self.step, self.plan.steps)
            loss = float(_train_step(self.model, self.optimizer, self.recipe, self.batch(self.step), place))
            if not math.isfinite(loss):
                raise Crashed("the loss is not finite", self.step)
            if loss > LOSS_MAX:
                raise Crashed(f"the loss is above {LOSS_MAX:g} nats", self.step)
            self.step += 1
            if each is not None:
                each(self.step, loss)

    def parameters(self) -> dict[str, tensors.Array]:
        """Parameters by name, on the CPU."""
        return {name: p.detach().cpu().numpy() for name, p in self.model.named_parameters()}

    def tail(self) -> dict[str, tensors.Array]:
        """What a state holds beside the parameters: optimizer memory and the step number."""
        memory: dict[str, tensors.Array] = {n: t.cpu().numpy() for n, t in self.optimizer.memory.items()}
        return {**memory, "step": np.array([self.step], np.int64)}

    def digests(self) -> tuple[bytes, bytes, bytes]:
        """(state, params, tail): 32 bytes each; state = sha256("state" ‖ params ‖ tail)."""
        params, tail = tensors.tensors_digest(self.parameters()), tensors.tensors_digest(self.tail())
        return hashlib.sha256(b"state" + params + tail).digest(), params, tail

    def save_state(self, path: Path) -> None:
        """Write parameters (``p.``) and tail as one safetensors file."""
        tensors.save(path, {**{"p." + n: a for n, a in self.parameters().items()}, **self.tail()})

    def save_weights(self, path: Path) -> None:
        """Write the parameters alone."""
        tensors.save(path, self.parameters())

    def load_state(self, path: Path) -> None:
        """Continue from a state file. Raises DataError when its tensors are not those of this recipe."""
        found = tensors.load(path)
        step = found.pop("step", None)
        if step is None or step.shape != (1,) or not 0 <= int(step.item()) <= self.plan.steps:
            raise DataError(f"{path.name} is not a state of this run: its step is missing or out of range")
        own = {"p." + name: parameter for name, parameter in self.model.named_parameters()}
        copy_tensors(path.name, found, {**own, **self.optimizer.memory})
        self.step = int(step.item())


@torch.no_grad()
def copy_tensors(source: str, found: Mapping[str, tensors.Array], own: Mapping[str, Tensor]) -> None:
    """Copy arrays into tensors of the same names, shapes and type (float32). Raises DataError."""
    if set(found) != set(own):
        odd = sorted(set(found) ^ set(own))[0]
        raise DataError(f"{source} does not fit the recipe: tensor {odd} is in only one of them")
    for name, array in found.items():
        if array.dtype != np.float32 or array.shape != tuple(own[name].shape):
            raise DataError(f"{source} does not fit the recipe: {name} is {array.dtype.name} {array.shape}")
        own[name].copy_(torch.from_numpy(array.copy()))


def load_weights(
    task: Mapping[str, Any], recipe: Mapping[str, object], path: Path, device: str
) -> tuple[Gpt, bytes]:
    """The model of a weights file, and the digest of its parameters. Raises DataError, RecipeError, TaskError."""
    tasks.check(task)
    checked = validate(recipe, seq_max=int(task["seq"]))
    model = Gpt(checked, int(task["vocab"]), int(task["seq"]))
    if sum(parameter.numel() for parameter in model.parameters()) > int(task["params_max"]):
        raise RecipeError(f"the recipe makes more than the task's {task['params_max']} parameters")
    found = tensors.load(path)
    copy_tensors(path.name, found, dict(model.named_parameters()))
    return model.to_device(torch.device(device)), tensors.tensors_digest(found)


class CpuLimit:
    """Counts the CPU time of a run against the task's ``cpu_s_max``."""

    def __init__(self, limit_s: int) -> None:
        self.limit_s = limit_s
        self.started_s = time.process_time()

    def spent_ms(self) -> int:
        """CPU milliseconds since the start."""
        return round((time.process_time() - self.started_s) * 1_000)

    def check(self, step: int) -> None:
        """Raise Crashed beyond the limit."""
        if self.spent_ms() > self.limit_s * 1_000:
            raise Crashed(f"the run used more than {self.limit_s} CPU seconds", step)


@contextlib.contextmanager
def quiet_gradients(model: nn.Module) -> Iterator[None]:
    """Free the gradients when the work is done: a worker lives long."""
    try:
        yield
    finally:
        for parameter in model.parameters():
            parameter.grad = None
