"""Every operator of ``learn.graph`` in torch: float32, without gradients, the same result each time.

``DENSE`` is the closed list: what is not in it is refused. Another interpreter wraps it: ``{**DENSE, "MatMul": mine}``.
Source: the ONNX operator specification; tests compare each operator with its reference implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spore_borg.learn.ops import (
    convolution,
    elementwise,
    indexing,
    linear,
    normalisation,
    quantised,
    recurrent,
    reductions,
    resize,
    shapes,
)
from spore_borg.learn.ops.base import ARITY, ELEMENTS_MAX, REGISTRY, Op

_FILLED_BY = (
    convolution,
    elementwise,
    indexing,
    linear,
    normalisation,
    quantised,
    recurrent,
    reductions,
    resize,
    shapes,
)

DENSE: Mapping[str, Op] = MappingProxyType(REGISTRY)

__all__ = ["ARITY", "DENSE", "ELEMENTS_MAX", "Op"]
