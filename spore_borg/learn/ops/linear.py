"""Products of matrices."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from spore_borg.learn.graph import Node
from spore_borg.learn.ops.base import (
    ELEMENTS_MAX,
    VARIADIC,
    Inputs,
    broadcast,
    fits,
    integer,
    number,
    op,
    optional,
    refuse,
    text,
)

EQUATION = re.compile(r"[A-Za-z.]+(,[A-Za-z.]+)*(->[A-Za-z.]*)?")
EINSUM_INPUTS_MAX = 4


@op("MatMul", 2)
def _matmul(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    left, right = inputs
    _product_fits(node, left, right)
    return (torch.matmul(left, right),)


def _product_fits(node: Node, left: Tensor, right: Tensor) -> None:
    if left.numel() * max(right.numel(), 1) <= ELEMENTS_MAX or left.dim() < 1 or right.dim() < 1:
        return
    if right.dim() == 2:
        fits(node, (*left.shape[:-1], right.shape[1]))
        return
    batch = broadcast(left.shape[:-2], right.shape[:-2])
    fits(node, (*batch, left.shape[-2] if left.dim() > 1 else 1, right.shape[-1] if right.dim() > 1 else 1))


@op("Gemm", 2, 3)
def _gemm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    left, right, bias = inputs[0], inputs[1], optional(inputs, 2)
    if left.dim() != 2 or right.dim() != 2:
        raise refuse(
            node, f"it multiplies matrices, not {list(left.shape)} by {list(right.shape)}; use MatMul."
        )
    alpha, beta = number(node, "alpha", 1.0), number(node, "beta", 1.0)
    left = left.t() if integer(node, "transA", 0) else left
    right = right.t() if integer(node, "transB", 0) else right
    fits(node, (left.shape[0], right.shape[1]))
    if bias is None:
        product = left @ right
        return (product if alpha == 1.0 else product * alpha,)
    return (torch.addmm(bias, left, right, alpha=alpha, beta=beta),)


@op("Einsum", 1, VARIADIC)
def _einsum(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    equation = text(node, "equation", "").replace(" ", "")
    if not EQUATION.fullmatch(equation) or len(inputs) > EINSUM_INPUTS_MAX:
        raise refuse(
            node, f"{equation[:80]!r} is no equation of at most {EINSUM_INPUTS_MAX} values that is supported."
        )
    # The product of every label's size bounds whatever is made on the way, where more than two values meet.
    sizes: dict[str, int] = {}
    rest = 1
    sources, _, target = equation.partition("->")
    for labels, value in zip(sources.split(","), inputs, strict=False):
        letters = labels.replace("...", "")
        front = labels.find("...")
        spread = value.dim() - len(letters)
        if front >= 0 and spread > 0:
            rest = max(rest, math.prod(value.shape[front : front + spread]))
        shape = value.shape if front < 0 else value.shape[:front] + value.shape[front + max(spread, 0) :]
        sizes |= {
            letter: max(size, sizes.get(letter, 1)) for letter, size in zip(letters, shape, strict=False)
        }
    kept = [size for letter, size in sizes.items() if len(inputs) > 2 or not target or letter in target]
    fits(node, (math.prod(kept) * rest,))
    return (torch.einsum(equation, *inputs),)
