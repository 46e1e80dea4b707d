"""The model of the language tasks: a small GPT whose every switch is a recipe field.

Shapes: B sequences, T tokens, C channels, H heads, D = C / H, V tokens in the vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from workspace import random
from workspace.recipe import MICRO, Recipe

GATE_CHANNELS = 16  # of the residual stream, read by the gate of the value embeddings


def real(recipe: Recipe, name: str) -> float:
    """A fixed-point field as a float."""
    return int(recipe[name]) / MICRO


def whole(recipe: Recipe, name: str) -> int:
    """An integer field."""
    return int(recipe[name])


class Norm(nn.Module):
    """RMS or layer normalisation over the last dimension, without a learned gain."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rms = kind == "rmsnorm"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; the shape stays."""
        return F.rms_norm(x, (x.size(-1),)) if self.rms else F.layer_norm(x, (x.size(-1),))


class Attention(nn.Module):
    """Causal self-attention, with rotary positions, query-key norm and gated value embeddings as switches."""

    def __init__(self, recipe: Recipe, *, values: bool) -> None:
        super().__init__()
        width = whole(recipe, "width")
        self.heads = whole(recipe, "heads")
        self.qk_norm = bool(recipe["qk_norm"])
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(GATE_CHANNELS, self.heads, bias=False) if values else None

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None, value: Tensor | None) -> Tensor:
        """[B, T, C] to [B, T, C]; ``value`` is the value embedding [B, T, C]."""
        b, t, c = x.shape
        d = c // self.heads
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d).permute(2, 0, 3, 1, 4)  # each [B, H, T, D]
        if value is not None and self.gate is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., :GATE_CHANNELS])).transpose(1, 2).unsqueeze(-1)
            v = v + gate * value.view(b, t, self.heads, d).transpose(1, 2)
        if angles is not None:
            q, k = _rotate(q, angles), _rotate(k, angles)
        if self.qk_norm:
            q, k = F.rms_norm(q, (d,)), F.rms_norm(k, (d,))
        if x.is_cpu:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:  # the fused kernels have no deterministic backward in fp32
            with sdpa_kernel(SDPBackend.MATH):
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(b, t, c))
        return out


def _rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (part[: x.size(-2)] for part in angles)
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)


class Mlp(nn.Module):
    """Two matrices around an activation, three for swiglu (with two thirds of the hidden channels)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        width = whole(recipe, "width")
        self.act = str(recipe["act"])
        hidden = width * whole(recipe, "mlp_ratio") // MICRO
        if self.act == "swiglu":
            hidden = hidden * 2 // 3
        hidden = max(8, hidden // 8 * 8)
        self.gate = nn.Linear(width, hidden, bias=False) if self.act == "swiglu" else None
        self.fc = nn.Linear(width, hidden, bias=False)
        self.proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        hidden = self.fc(x)
        if self.gate is not None:
            hidden = F.silu(self.gate(x)) * hidden
        elif self.act == "relu2":
            hidden = F.relu(hidden).square()
        else:
            hidden = F.gelu(hidden) if self.act == "gelu" else F.silu(hidden)
        out: Tensor = self.proj(hidden)
        return out


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream."""

    def __init__(self, recipe: Recipe, *, values: bool) -> None:
        super().__init__()
        self.norm = Norm(str(recipe["norm"]))
        self.attn = Attention(recipe, values=values)
        self.mlp = Mlp(recipe)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None, value: Tensor | None) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        x = x + self.attn(self.norm(x), angles, value)
        out: Tensor = x + self.mlp(self.norm(x))
        return out


class Gpt(nn.Module):
    """Token ids [B, T] to logits [B, T, V]. Parameters are unset until `initialise` or a loaded state."""

    def __init__(self, recipe: Recipe, vocab: int, seq_max: int) -> None:
        super().__init__()
        width, depth = whole(recipe, "width"), whole(recipe, "depth")
        self.recipe = recipe
        valued = {i for i in range(depth) if i % 2 == (depth - 1) % 2} if recipe["value_embed"] else set()
        self.embed = nn.Embedding(vocab, width)
        self.position = nn.Embedding(seq_max, width) if recipe["pos"] == "learned" else None
        self.blocks = nn.ModuleList(Block(recipe, values=i in valued) for i in range(depth))
        self.values = nn.ModuleDict({str(i): nn.Embedding(vocab, width) for i in sorted(valued)})
        self.blend = nn.Parameter(torch.empty(depth, 2)) if recipe["x0_skip"] else None
        self.norm = Norm(str(recipe["norm"]))
        self.head = None if recipe["tie"] else nn.Linear(width, vocab, bias=False)
        self.softcap = real(recipe, "softcap")
        self.angles: tuple[Tensor, Tensor] | None = None
        if recipe["pos"] == "rope":
            d = width // whole(recipe, "heads")
            rate = float(whole(recipe, "rope_base")) ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
            turn = torch.outer(torch.arange(seq_max, dtype=torch.float64), rate)
            self.angles = (turn.cos().float(), turn.sin().float())

    def to_device(self, device: torch.device) -> Gpt:
        """Move parameters and rotary tables."""
        self.to(device)
        if self.angles is not None:
            self.angles = (self.angles[0].to(device), self.angles[1].to(device))
        return self

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Set every parameter from the seed, in order of names; call it before the model leaves the CPU."""
        matrix, embedding = real(self.recipe, "init_std"), real(self.recipe, "emb_init_std")
        for index, (name, parameter) in enumerate(sorted(self.named_parameters())):
            std = embedding if name.startswith(("embed", "position", "values")) else matrix
            if name == "blend":
                parameter.copy_(torch.tensor([1.0, 0.0]).expand_as(parameter))
                continue
            if name.endswith("proj.weight"):
                std /= math.sqrt(2 * whole(self.recipe, "depth"))
                if self.recipe["zero_init_proj"]:
                    std = 0.0
            if name.endswith("attn.gate.weight"):
                std = 0.0
            parameter.copy_(torch.from_numpy(random.bell(seed, index, tuple(parameter.shape), std)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [B, T] to logits [B, T, V]."""
        x = self.embed(tokens)
        if self.position is not None:
            x = x + self.position.weight[: tokens.size(1)]
        if self.recipe["emb_norm"]:
            x = self.norm(x)
        first = x
        for index, block in enumerate(self.blocks):
            if self.blend is not None:
                x = self.blend[index, 0] * x + self.blend[index, 1] * first
            key = str(index)
            value = self.values[key](tokens) if key in self.values else None
            x = block(x, self.angles, value)
        x = self.norm(x)
        logits = F.linear(x, self.embed.weight if self.head is None else self.head.weight)
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits
