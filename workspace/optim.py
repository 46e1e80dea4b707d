"""AdamW, Lion and Muon in plain eager code; every tensor they remember is named, saved and hashed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from workspace.model import real
from workspace.recipe import Recipe


def rate_at(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of a step as a share of the peak: rise, plateau, fall."""
    place = (step + 0.5) / steps
    warmup, warmdown, final = (real(recipe, name) for name in ("warmup", "warmdown", "final_lr"))
    if place < warmup:
        return place / warmup
    if place <= 1 - warmdown or warmdown == 0:
        return 1.0
    left = min((1 - place) / warmdown, 1.0)
    if recipe["sched"] == "cosine":
        left = 0.5 - 0.5 * math.cos(math.pi * left)
    return final + (1 - final) * left


def orthogonalise(gradient: Tensor) -> Tensor:
    """Five Newton-Schulz steps towards the nearest orthogonal matrix (Muon, Jordan 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = gradient / (gradient.norm() + 1e-7)
    tall = bool(x.size(0) > x.size(1))
    if tall:
        x = x.T
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    turned: Tensor = x.T if tall else x
    return turned


class Optimizer:
    """Updates the parameters of one model; ``memory`` maps names to the tensors that a state must hold."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.recipe = recipe
        self.parameters = dict(sorted(model.named_parameters()))
        self.matrices = {n for n, p in self.parameters.items() if n.startswith("blocks") and p.dim() == 2}
        muon = recipe["opt"] == "muon"
        self.muon = {n for n in self.matrices if muon and not n.endswith("attn.gate.weight")}
        self.memory: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            self.memory["m." + name] = torch.zeros_like(parameter)
            if name not in self.muon and recipe["opt"] != "lion":
                self.memory["v." + name] = torch.zeros_like(parameter)

    def _scale(self, name: str) -> float:
        if name.startswith("head"):
            return real(self.recipe, "head_lr_mult")
        return real(self.recipe, "emb_lr_mult") if name.startswith(("embed", "values", "position")) else 1.0

    @torch.no_grad()
    def update(self, step: int, share: float) -> None:
        """Apply the gradients of step ``step`` (0, 1, …) at ``share`` of the peak learning rates."""
        recipe = self.recipe
        lr, decay = real(recipe, "lr") * share, real(recipe, "wd")
        beta1, beta2 = real(recipe, "beta1"), real(recipe, "beta2")
        muon_lr, momentum = real(recipe, "muon_lr") * share, real(recipe, "muon_momentum")
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            first = self.memory["m." + name]
            if name in self.muon:
                first.lerp_(gradient, 1 - momentum)
                turn = orthogonalise(gradient.lerp(first, momentum))
                stretch = max(1.0, parameter.size(0) / parameter.size(1)) ** 0.5
                parameter.mul_(1 - muon_lr * decay).add_(turn, alpha=-muon_lr * stretch)
                continue
            rate = lr * self._scale(name)
            if name in self.matrices:
                parameter.mul_(1 - rate * decay)
            if recipe["opt"] == "lion":
                parameter.add_(first.lerp(gradient, 1 - beta1).sign_(), alpha=-rate)
                first.lerp_(gradient, 1 - beta2)
                continue
            second = self.memory["v." + name]
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            spread = (second / (1 - beta2 ** (step + 1))).sqrt_().add_(1e-8)
            parameter.addcdiv_(first, spread, value=-rate / (1 - beta1 ** (step + 1)))
