"""Several models of one lineage as one model: their weights merged in integers, everything else as it is in all.

Models are of one lineage if their graphs are the same bytes and their weights have the same shapes: then a coordinate
means the same in each. Tensors that are equal in all inputs stay as they are, so constants of any size do no harm.
Memory holds one tensor of each of two models at a time; the merged tensors lie in a file.
Source: PROTOCOL §6; spec/52-merge.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from spore_borg.learn import merging
from spore_borg.learn.errors import LearnError
from spore_borg.learn.graph import Model, Weights
from spore_borg.learn.tensor_file import TensorFile, TensorWriter

MERGEABLE = (torch.float32, torch.float16, torch.bfloat16)


class MergedWeights:
    """The first model's weights, and in place of those that differ between the inputs the merged ones."""

    def __init__(self, first: Weights, path: Path) -> None:
        self._first, self._path = first, path
        with closing(TensorFile(path)) as file:
            self._merged: Mapping[str, tuple[int, ...]] = file.shapes()

    def names(self) -> list[str]:
        """All names, sorted."""
        return self._first.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without loading. Raises GraphError for an unknown name."""
        return self._first.shape(name)

    def load(self, name: str) -> torch.Tensor:
        """One tensor in the dtype of the first model's."""
        if name not in self._merged:
            return self._first.load(name)
        shape = self._merged[name]
        with closing(TensorFile(self._path)) as file:
            found = file.read(name, 0, math.prod(shape))
        return found.reshape(shape).to(self._first.load(name).dtype)


def merged_model(
    models: Sequence[Model], incomes: Sequence[int], rule: str, scratch: Path, base: Model | None = None
) -> Model:
    """One model for several.

    Args:
        models: at least two, in any order: the result is the same; incomes: the weight of each, from 1.
        rule: ``mean/1`` or ``trimmed/1``; base: what all were trained from, or None: distances are from zero.
        scratch: a directory for ``merged.safetensors``, which the model reads from; made if it is not there. What lies
            there already is taken, so a directory is for one merge only.
    Raises:
        LearnError: the models are no lineage, are all the same, or have weights that cannot be merged.
    """
    if len(models) != len(incomes):
        raise LearnError(f"{len(models)} models need as many weights, not {len(incomes)}.")
    first = models[0]
    for other in [*models[1:], *([] if base is None else [base])]:
        _same_form(first, other)
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "merged.safetensors"
    if not path.exists():
        names = differing(models)
        if not names:
            raise LearnError("These models have the same weights: there is nothing to merge.")
        _merge(models, incomes, rule, base, names, path)
    return replace(first, weights=MergedWeights(first.weights, path))


def _same_form(first: Model, other: Model) -> None:
    """Raise LearnError unless two models are the same but for their weights."""
    if first.graph.to_json() != other.graph.to_json() or first.info.architecture != other.info.architecture:
        raise LearnError(
            "These models are no lineage: their graphs differ. They stand side by side in the state."
        )
    if (first.info.head, first.info.modality) != (other.info.head, other.info.modality):
        raise LearnError("These models are no lineage: they have other heads.")
    if dict(first.adapter) != dict(other.adapter) or dict(first.assets) != dict(other.assets):
        raise LearnError(
            "These models are no lineage: they read or name things in other ways (tokenizer, labels)."
        )
    for name in _weights(first):
        if first.weights.shape(name) != other.weights.shape(name):
            raise LearnError(f"These models are no lineage: {name[:80]!r} has other shapes.")


def _weights(model: Model) -> list[str]:
    """The names of weights that the graph uses, sorted."""
    return sorted(model.graph.weight_names())


def differing(models: Sequence[Model]) -> list[str]:
    """The weights that are not the same bytes in all models, sorted. Raises LearnError for what is no real number."""
    found = []
    for name in _weights(models[0]):
        one = models[0].weights.load(name)
        if all(_equal(one, other.weights.load(name)) for other in models[1:]):
            continue
        for model in models:
            kind = model.weights.load(name).dtype
            if kind not in MERGEABLE or kind != one.dtype:
                raise LearnError(
                    f"{name[:80]!r} differs between the models and is {kind}: that is not merged."
                )
        found.append(name)
    return found


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same bytes, NaN and -0 included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(
        a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )


def _merge(
    models: Sequence[Model],
    incomes: Sequence[int],
    rule: str,
    base: Model | None,
    names: Sequence[str],
    path: Path,
) -> None:
    """Write the merged tensors; the inputs' own lie beside them meanwhile."""
    parts, made = [], []
    try:
        for number, (model, weight) in enumerate(zip(models, incomes, strict=True)):
            made.append(_dump(model, names, path.with_name(f"part-{number:02d}.safetensors")))
            parts.append(merging.Part(made[-1], weight))
        origin = None if base is None else _dump(base, names, path.with_name("base.safetensors"))
        made += [] if origin is None else [origin]
        merging.merge(parts, path, base=origin, rule=rule)
    finally:
        for part in made:
            part.unlink(missing_ok=True)


def _dump(model: Model, names: Sequence[str], path: Path) -> Path:
    """Some weights of a model as float32, one at a time."""
    with TensorWriter(path, {name: model.weights.shape(name) for name in names}) as writer:
        for name in sorted(names):
            writer.write(model.weights.load(name).to(torch.float32).reshape(-1))
    return path
