"""The recipe: everything that an experiment may change, as typed and bounded fields.

A recipe is a ``dict[str, int | bool | str]`` in which every field is present. Nothing in it is code and nothing
in it is a float: a value of kind ``fixed`` is an integer in units of 1e-6 (``3000`` is 0.003), so that the same
recipe has the same bytes everywhere. This module imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

Value = int | bool | str
Recipe = dict[str, Value]

MICRO = 1_000_000  # units of a fixed-point value in 1.0


class RecipeError(ValueError):
    """A recipe that cannot be run: the message names the field, its value and what would be allowed."""


@dataclass(frozen=True, slots=True)
class Field:
    """One knob of the recipe.

    ``low`` and ``high`` bound kinds ``int`` and ``fixed`` (``fixed`` in 1e-6), both ends allowed; ``choices``
    bounds kind ``choice``. ``log`` says that ratios, not differences, are the natural steps of the field.
    """

    name: str
    kind: str  # int, choice, bool, fixed
    help: str
    low: int = 0
    high: int = 0
    choices: tuple[int | str, ...] = ()
    log: bool = False

    def allowed(self) -> str:
        """What the field takes, in words, for messages and for the reference page."""
        if self.kind == "choice":
            return "one of " + ", ".join(str(choice) for choice in self.choices)
        if self.kind == "bool":
            return "true or false"
        return f"{show(self.name, self.low)} to {show(self.name, self.high)}"


def _fixed(name: str, low: str, high: str, text: str, *, log: bool = False) -> Field:
    return Field(name, "fixed", text, low=parse_fixed(low), high=parse_fixed(high), log=log)


def _choice(name: str, choices: tuple[int | str, ...], text: str) -> Field:
    return Field(name, "choice", text, choices=choices)


def _bool(name: str, text: str) -> Field:
    return Field(name, "bool", text)


def parse_fixed(text: str) -> int:
    """Decimal text to an integer in 1e-6, exactly. Raises RecipeError for finer or unreadable values."""
    try:
        scaled = Decimal(text) * MICRO
        whole = int(scaled)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise RecipeError(f"{text!r} is not a decimal number such as 0.003") from error
    if scaled != whole:
        raise RecipeError(f"{text} has more than six decimals; the finest step is 0.000001")
    return whole


def show(name: str, value: Value) -> str:
    """The value as a person writes it: ``show("lr", 3000)`` is ``"0.003"``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    spec = FIELDS.get(name)
    if isinstance(value, int) and spec is not None and spec.kind == "fixed":
        text = f"{Decimal(value) / MICRO:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value)


def parse(name: str, text: str) -> Value:
    """The inverse of `show`, for values typed by a person. Raises RecipeError."""
    spec = FIELDS.get(name)
    if spec is None:
        raise RecipeError(f"no recipe field {name!r}; the fields are {', '.join(FIELDS)}")
    value: Value
    if spec.kind == "bool":
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise RecipeError(f"{name} is {text!r}; it takes true or false")
        value = words[text.lower()]
    elif spec.kind == "fixed":
        value = parse_fixed(text)
    elif spec.kind == "int" or isinstance(spec.choices[0], int):
        try:
            value = int(text)
        except ValueError as error:
            raise RecipeError(f"{name} is {text!r}; it takes {spec.allowed()}") from error
    else:
        value = text
    _check(spec, value)
    return value


FIELDS: dict[str, Field] = {}
FIELDS.update(
    (field.name, field)
    for field in (
        Field("depth", "int", "transformer blocks", low=1, high=8),
        _choice("width", (16, 32, 48, 64, 80, 96, 128, 192), "channels of the residual stream"),
        _choice("heads", (1, 2, 3, 4, 6, 8), "attention heads; width / heads must be a multiple of 4"),
        _fixed("mlp_ratio", "0.5", "8", "hidden channels of the MLP per channel of width"),
        _choice("act", ("gelu", "relu2", "silu", "swiglu"), "activation of the MLP"),
        _choice("norm", ("rmsnorm", "layernorm"), "normalisation before attention, MLP and output"),
        _choice("pos", ("rope", "learned", "none"), "how positions are known"),
        Field(
            "rope_base", "int", "longest wavelength of the rotary angles", low=10, high=1_000_000, log=True
        ),
        _bool("qk_norm", "normalise queries and keys per head"),
        _bool("value_embed", "add gated token embeddings to the values of every second block"),
        _bool("emb_norm", "normalise after the embedding"),
        _bool("x0_skip", "blend the embedding back in before each block, learned per block"),
        _bool("tie", "one matrix for embedding and output head"),
        _bool("zero_init_proj", "start the two output projections of each block at zero"),
        _fixed("softcap", "0", "100", "bound logits by softcap * tanh(logit / softcap); 0 is off"),
        _fixed("init_std", "0.001", "0.5", "standard deviation of initial matrices", log=True),
        _fixed("emb_init_std", "0.001", "2", "standard deviation of initial embeddings", log=True),
        _choice(
            "opt", ("adamw", "lion", "muon"), "optimizer of the block matrices (muon: AdamW for the rest)"
        ),
        _fixed("lr", "0.00001", "0.1", "learning rate of AdamW or Lion", log=True),
        _fixed("emb_lr_mult", "0.05", "20", "embedding learning rate / lr", log=True),
        _fixed("head_lr_mult", "0.05", "20", "output head learning rate / lr, when untied", log=True),
        _fixed("muon_lr", "0.0001", "0.5", "learning rate of Muon", log=True),
        _fixed("muon_momentum", "0.5", "0.99", "momentum of Muon"),
        _fixed("beta1", "0.5", "0.99", "decay of the first moment"),
        _fixed("beta2", "0.8", "0.9999", "decay of the second moment"),
        _fixed("wd", "0", "1", "decoupled weight decay of block matrices"),
        _fixed("clip", "0", "10", "largest norm of the whole gradient; 0 is off"),
        _fixed("warmup", "0", "0.5", "share of the steps with a rising learning rate"),
        _fixed("warmdown", "0", "1", "share of the steps with a falling learning rate, at the end"),
        _fixed("final_lr", "0", "1", "learning rate at the last step, as a share of the peak"),
        _choice("sched", ("linear", "cosine"), "shape of the fall"),
        Field("batch", "int", "sequences per step", low=1, high=64, log=True),
        _choice("seq", (16, 32, 64, 128, 256), "tokens per training sequence; at most the task's"),
        _fixed("zloss", "0", "0.01", "weight of the squared log-partition penalty"),
    )
)


def _baseline(**changes: Value) -> Recipe:
    start: Recipe = {
        "depth": 3, "width": 64, "heads": 2, "mlp_ratio": 4_000_000, "act": "relu2", "norm": "rmsnorm",
        "pos": "rope", "rope_base": 10_000, "qk_norm": True, "value_embed": False, "emb_norm": True,
        "x0_skip": False, "tie": False, "zero_init_proj": True, "softcap": 15_000_000, "init_std": 50_000,
        "emb_init_std": 300_000, "opt": "adamw", "lr": 4_000, "emb_lr_mult": 1_000_000,
        "head_lr_mult": 1_000_000, "muon_lr": 20_000, "muon_momentum": 950_000, "beta1": 900_000,
        "beta2": 950_000, "wd": 100_000, "clip": 1_000_000, "warmup": 50_000, "warmdown": 500_000,
        "final_lr": 50_000, "sched": "linear", "batch": 8, "seq": 64, "zloss": 0,
    }  # fmt: skip
    return {**start, **changes}


BASELINE_NANO: Recipe = _baseline()
BASELINE_PICO: Recipe = _baseline(depth=2, width=48, batch=4)
BASELINE_MICRO: Recipe = _baseline(depth=4, width=96, heads=3)


def _check(spec: Field, value: object) -> None:
    right = isinstance(value, bool) if spec.kind == "bool" else isinstance(value, int | str)
    if spec.kind != "bool" and isinstance(value, bool):
        right = False
    if right and spec.kind in ("int", "fixed"):
        right = isinstance(value, int) and spec.low <= value <= spec.high
    if right and spec.kind == "choice":
        right = value in spec.choices
    if not right:
        shown = show(spec.name, value) if isinstance(value, int | str) else repr(value)
        raise RecipeError(f"{spec.name} is {shown}; it takes {spec.allowed()}")


def validate(recipe: Mapping[str, object], *, seq_max: int | None = None) -> Recipe:
    """The recipe with its fields in table order, every one checked.

    Args:
        recipe: every field, no other; values as stored (``fixed`` as integers in 1e-6).
        seq_max: the task's sequence length in tokens, when the task is known.
    Raises:
        RecipeError: names the field, the value and the bounds.
    """
    unknown = sorted(set(recipe) - set(FIELDS))
    if unknown:
        raise RecipeError(f"no recipe field {unknown[0]!r}; the fields are {', '.join(FIELDS)}")
    checked: Recipe = {}
    for name, spec in FIELDS.items():
        if name not in recipe:
            raise RecipeError(f"{name} is missing; it takes {spec.allowed()}")
        value = recipe[name]
        _check(spec, value)
        if isinstance(value, int | str):
            checked[name] = value
    width, heads = int(checked["width"]), int(checked["heads"])
    if width % heads or (width // heads) % 4:
        raise RecipeError(f"heads is {heads} at width {width}; width / heads must be a multiple of 4")
    if int(checked["warmup"]) + int(checked["warmdown"]) > MICRO:
        total = show("warmup", int(checked["warmup"]) + int(checked["warmdown"]))
        raise RecipeError(f"warmup + warmdown is {total}; together they take at most 1")
    if seq_max is not None and int(checked["seq"]) > seq_max:
        raise RecipeError(f"seq is {checked['seq']}; this task takes at most {seq_max}")
    return checked


def canonical(recipe: Mapping[str, Value]) -> bytes:
    """The bytes that stand for a recipe: JSON, keys sorted, no spaces, ASCII."""
    return json.dumps(dict(recipe), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def digest(recipe: Mapping[str, Value]) -> bytes:
    """sha256 of `canonical`: 32 bytes."""
    return hashlib.sha256(canonical(recipe)).digest()


def diff(before: Mapping[str, Value], after: Mapping[str, Value]) -> list[tuple[str, Value, Value]]:
    """The fields that differ, in table order, as (field, value before, value after)."""
    return [(name, before[name], after[name]) for name in FIELDS if before[name] != after[name]]
