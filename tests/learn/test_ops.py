"""Every operator against the reference implementation of the onnx package, on small random graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from spore_borg.learn.errors import GraphError
from spore_borg.learn.ops import DENSE
from tests.learn.op_oracle import generator, ours, reference

Make = Callable[[np.random.Generator], list[np.ndarray | None]]
INT = np.int64


def f(*shape: int, low: float = -2.0, high: float = 2.0) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.uniform(low, high, shape).astype(np.float32)


def i(*values: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: np.array(values, INT)


def scalar(value: float, dtype: Any = INT) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: np.array(value, dtype)


def z(
    *shape: int, high: int = 4, low: int = 0, dtype: Any = INT
) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.integers(low, high, shape).astype(dtype)


def b(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.integers(0, 2, shape).astype(bool)


def near(rng: np.random.Generator) -> np.ndarray:
    return np.array([[1.0, np.nan, np.inf], [-np.inf, 0.0, -3.5]], np.float32)


Case = tuple[str, list[Any], dict[str, Any]]


def case(op: str, *inputs: Any, outputs: int = 1, **attrs: Any) -> Case:
    return op, list(inputs), {"outputs": outputs, **attrs}


UNARY = [
    "Abs",
    "Asinh",
    "Atan",
    "Ceil",
    "Cos",
    "Cosh",
    "Erf",
    "Exp",
    "Floor",
    "HardSwish",
    "Identity",
    "Mish",
    "Neg",
    "Relu",
    "Round",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Tan",
    "Tanh",
    "Elu",
    "Selu",
    "Celu",
    "LeakyRelu",
    "ThresholdedRelu",
    "HardSigmoid",
    "Shrink",
    "Gelu",
    "IsNaN",
]
X = f(2, 3, 4)
CASES: list[Case] = [
    *(case(op, X) for op in UNARY),
    *(case(op, f(2, 3, low=-0.9, high=0.9)) for op in ("Acos", "Asin", "Atanh")),
    *(case(op, f(2, 3, low=1.1, high=3.0)) for op in ("Acosh", "Log", "Sqrt", "Reciprocal")),
    *(case(op, X, f(3, 1)) for op in ("Add", "Sub", "Mul", "Div", "PRelu", "Max", "Min", "Sum", "Mean")),
    *(
        case(op, z(2, 3, high=9), z(3, low=1, high=5))
        for op in ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min")
    ),
    *(case(op, z(2, 3), z(3)) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *(case(op, z(2, 3), z(3)) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    *(case(op, b(2, 3), b(3)) for op in ("And", "Or", "Xor")),
    case("Div", z(4, low=-9, high=9), i(2, -3, 4, -5)),
    case("Mod", z(6, low=-9, high=9), i(2, -3, 4, -5, 3, 7)),
    case("Mod", f(6), f(6, low=0.5), fmod=1),
    case("Not", b(4)),
    case("BitwiseNot", z(4)),
    case("Pow", f(2, 3, low=0.1), f(3)),
    case("Pow", f(2, 3), scalar(2)),
    case("IsInf", near),
    case("IsInf", near, detect_negative=0),
    case("IsNaN", near),
    case("Gelu", X, approximate="tanh"),
    case("HardSigmoid", X, alpha=0.3, beta=0.4),
    case("Elu", X, alpha=0.7),
    case("Celu", X, alpha=0.7),
    case("Shrink", X, bias=0.3, lambd=0.9),
    case("Clip", X, scalar(-1.0, np.float32), scalar(0.5, np.float32)),
    case("Clip", X, None, scalar(0.5, np.float32)),
    case("Where", b(3, 1), X, f(4)),
    *(case("Cast", f(3, 4, low=-9, high=9), to=to) for to in (1, 6, 7, 9)),
    case("Cast", b(5), to=1),
    case("CastLike", f(3), i(1)),
    *(case(op, X, axis=axis) for op in ("Softmax", "LogSoftmax", "Hardmax") for axis in (-1, 1, 0)),
    # products
    case("MatMul", f(2, 3, 4), f(4, 5)),
    case("MatMul", f(2, 1, 3, 4), f(5, 4, 2)),
    case("MatMul", f(4), f(2, 4, 3)),
    case("MatMul", f(4), f(4)),
    case("Gemm", f(3, 4), f(4, 5)),
    case("Gemm", f(3, 4), f(4, 5), f(5), alpha=0.5, beta=2.0),
    case("Gemm", f(4, 3), f(5, 4), f(3, 1), transA=1, transB=1),
    case("Einsum", f(2, 3, 4), f(2, 4, 5), equation="bij,bjk->bik"),
    case("Einsum", f(2, 3, 4), f(2, 5, 4), equation="...ij,...kj->...ik"),
    case("Einsum", f(3, 3), equation="ii"),
    case("MatMulInteger", z(3, 4, high=255, dtype=np.uint8), z(4, 5, low=-100, high=100, dtype=np.int8)),
    # reductions
    *(
        case(op, f(2, 3, 4, low=0.1), i(1, -1), keepdims=keep)
        for op in [
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSum",
            "ReduceLogSumExp",
        ]
        for keep in (0, 1)
    ),
    case("ReduceSum", X),
    case("ReduceMean", X, keepdims=0),
    case("ReduceSum", X, i(), noop_with_empty_axes=1),
    *(case(op, z(3, 5), axis=1, keepdims=0) for op in ("ArgMax", "ArgMin")),
    *(case(op, z(3, 5), axis=-1, select_last_index=1) for op in ("ArgMax", "ArgMin")),
    case("TopK", f(3, 6), i(4), outputs=2),
    case("TopK", f(3, 6), i(2), outputs=2, axis=0, largest=0),
    *(case("CumSum", X, scalar(1), exclusive=e, reverse=r) for e in (0, 1) for r in (0, 1)),
    # shapes
    case("Reshape", X, i(0, -1)),
    case("Reshape", f(0, 3), i(3, 0), allowzero=1),
    *(case("Flatten", X, axis=axis) for axis in (0, 1, -1, 3)),
    case("Transpose", X),
    case("Transpose", X, perm=[1, 2, 0]),
    case("Squeeze", f(1, 3, 1)),
    case("Squeeze", f(1, 3, 1), i(-1)),
    case("Unsqueeze", f(3), i(0, -1)),
    case("Shape", X),
    case("Shape", X, start=-2, end=2),
    case("Size", X),
    case("Concat", X, f(2, 1, 4), axis=1),
    case("Split", f(6, 2), outputs=3),
    case("Split", f(7, 2), num_outputs=3, outputs=3),
    case("Split", f(2, 6), i(1, 2, 3), outputs=3, axis=-1),
    case("Slice", X, i(1, 0), i(3, 9), i(1, 2), i(1, 2)),
    case("Slice", f(8), i(-2), i(-(1 << 40)), i(0), i(-3)),
    case("Slice", f(3, 8), i(9, 0), i(0, 2), i(1, 0), i(-1, 1)),
    case("Slice", X, i(0), i(1 << 62), i(-1)),
    case("Slice", X, i(1), i(2)),
    case("Expand", f(3, 1), i(2, 1, 4)),
    case("Tile", f(2, 3), i(2, 3)),
    case("Range", scalar(1), scalar(11), scalar(3)),
    case("Range", scalar(2.0, np.float32), scalar(-1.0, np.float32), scalar(-0.5, np.float32)),
    case("Pad", f(2, 3), i(1, 0, 0, 2), scalar(1.5, np.float32)),
    case("Pad", f(2, 3), i(1, 2), None, i(-1)),
    *(case("Pad", f(4, 5), i(2, 1, 3, 2), mode=mode) for mode in ("reflect", "edge", "wrap")),
    *(case("DepthToSpace", f(2, 8, 2, 3), blocksize=2, mode=mode) for mode in ("DCR", "CRD")),
    case("SpaceToDepth", f(2, 2, 4, 6), blocksize=2),
    # indices
    *(case("Gather", f(5, 4), z(2, 3, low=-4, high=4), axis=axis) for axis in (0, 1, -1)),
    case("Gather", f(5, 4), scalar(2)),
    case("GatherElements", f(3, 4), z(2, 4, low=-3, high=3), axis=0),
    case("GatherND", f(3, 4, 5), z(2, 2, low=-3, high=3)),
    case("GatherND", f(2, 3, 4), z(2, 5, 1, high=3), batch_dims=1),
    case("ScatterND", f(5, 3), lambda rng: np.array([[4], [0]]), f(2, 3)),
    case("ScatterElements", f(3, 4), z(1, 4, high=3), f(1, 4), axis=0),
    case("ScatterElements", f(3, 4), z(2, 4, high=3), f(2, 4), axis=0, reduction="add"),
    case("NonZero", z(3, 4, high=2)),
    case("OneHot", z(2, 3, low=-5, high=7), scalar(5), f(2)),
    case("OneHot", z(2, 3, high=5), scalar(5), f(2), axis=1),
    *(case("Trilu", f(4, 5), scalar(k), upper=upper) for k in (-1, 0, 2) for upper in (0, 1)),
    case("EyeLike", f(3, 5), k=1),
    case("EyeLike", f(4, 3), k=-1),
    case("Compress", f(3, 4), b(3), axis=0),
    case("ReverseSequence", f(5, 3, 2), i(2, 5, 1), time_axis=0, batch_axis=1),
    case("ReverseSequence", f(3, 5), i(2, 5, 1), time_axis=1, batch_axis=0),
    # normalisation
    case("LayerNormalization", X, f(4), f(4)),
    case("LayerNormalization", X, f(3, 4), f(3, 4), axis=1, epsilon=0.1),
    case("LayerNormalization", X, f(4), outputs=3),
    case("RMSNormalization", X, f(4)),
    case("RMSNormalization", X, f(3, 4), axis=1, epsilon=0.1),
    case("BatchNormalization", f(2, 3, 4), f(3), f(3), f(3), f(3, low=0.1)),
    case("InstanceNormalization", f(2, 3, 4, 2), f(3), f(3)),
    case("GroupNormalization", f(2, 6, 4), f(6), f(6), num_groups=2),
    case("MeanVarianceNormalization", f(2, 3, 4, 2)),
    case("LpNormalization", f(2, 3, low=0.1), p=1),
    case("LpNormalization", f(2, 3), axis=0),
    # convolution and pooling
    case("Conv", f(2, 3, 9), f(4, 3, 3), f(4), pads=[1, 1], strides=[2]),
    case("Conv", f(2, 4, 7, 6), f(6, 2, 3, 2), pads=[0, 1, 2, 0], strides=[2, 1], dilations=[1, 2], group=2),
    case("Conv", f(1, 2, 4, 4, 4), f(3, 2, 2, 2, 2)),
    *(
        case("Conv", f(1, 2, 8), f(3, 2, 4), auto_pad=mode, strides=[3])
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    case("ConvTranspose", f(1, 2, 5), f(2, 3, 4), f(3), strides=[2], pads=[1, 0], output_padding=[1]),
    case("ConvTranspose", f(1, 2, 3, 4), f(2, 2, 3, 3), dilations=[1, 2]),
    case("ConvTranspose", f(1, 2, 3, 3), f(2, 2, 3, 3), strides=[3, 2], output_shape=[10, 8]),
    case("ConvTranspose", f(1, 2, 3, 3), f(2, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    *(
        case(op, f(2, 3, 7, 8), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=ceil)
        for op in ("MaxPool", "AveragePool")
        for ceil in (0, 1)
    ),
    case("MaxPool", f(1, 2, 9), kernel_shape=[3], dilations=[2]),
    case("MaxPool", f(2, 2, 4, 6), kernel_shape=[2, 2], strides=[2, 2], outputs=2),
    case("AveragePool", f(1, 2, 9), kernel_shape=[4], strides=[3], pads=[2, 1], count_include_pad=1),
    case("AveragePool", f(1, 2, 9), kernel_shape=[3], strides=[2], auto_pad="SAME_UPPER"),
    case("GlobalAveragePool", f(2, 3, 4, 5)),
    case("GlobalMaxPool", f(2, 3, 4, 5)),
    # recurrent
    case("LSTM", f(5, 2, 3), f(1, 16, 3), f(1, 16, 4), f(1, 32), outputs=3, hidden_size=4),
    case(
        "LSTM",
        f(5, 2, 3),
        f(1, 16, 3),
        f(1, 16, 4),
        f(1, 32),
        None,
        f(1, 2, 4),
        f(1, 2, 4),
        f(1, 12),
        outputs=3,
        hidden_size=4,
    ),
    case(
        "LSTM",
        f(5, 2, 3),
        f(2, 16, 3),
        f(2, 16, 4),
        f(2, 32),
        outputs=3,
        hidden_size=4,
        direction="bidirectional",
    ),
    case(
        "GRU", f(5, 2, 3), f(1, 12, 3), f(1, 12, 4), f(1, 24), outputs=2, hidden_size=4, linear_before_reset=1
    ),
    case("GRU", f(5, 2, 3), f(1, 12, 3), f(1, 12, 4), f(1, 24), None, f(1, 2, 4), outputs=2, hidden_size=4),
    case("RNN", f(5, 2, 3), f(1, 4, 3), f(1, 4, 4), f(1, 8), outputs=2, hidden_size=4),
    # resize
    *(
        case(
            "Resize",
            f(1, 2, 4, 5),
            None,
            lambda rng: np.array([1, 1, 1.5, 0.6], np.float32),
            mode=mode,
            coordinate_transformation_mode=rule,
        )
        for mode in ("nearest", "linear", "cubic")
        for rule in (
            "half_pixel",
            "asymmetric",
            "align_corners",
            "pytorch_half_pixel",
            "half_pixel_symmetric",
        )
    ),
    *(
        case("Resize", f(1, 1, 4, 5), None, None, i(1, 1, 7, 3), nearest_mode=mode)
        for mode in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    case("Resize", f(4, 5), None, None, i(9), axes=[1], mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    # whole numbers for real ones
    case("DequantizeLinear", z(2, 3, high=255, dtype=np.uint8), f(1), z(1, high=9, dtype=np.uint8)),
    case("DequantizeLinear", z(2, 3, 4, low=-9, high=9, dtype=np.int8), f(3), z(3, dtype=np.int8), axis=1),
    case("DequantizeLinear", z(2, 6, low=-9, high=9, dtype=np.int8), f(2, 3), axis=1, block_size=2),
    case("QuantizeLinear", f(2, 3, low=-9), scalar(0.05, np.float32), scalar(7, np.uint8)),
    case("QuantizeLinear", f(2, 3), f(3, low=0.01, high=0.1), z(3, dtype=np.int8), axis=1),
    case("DynamicQuantizeLinear", f(2, 3), outputs=3),
]
IDS = [f"{number:03d}-{op}" for number, (op, _, _) in enumerate(CASES)]


@pytest.mark.parametrize(("op", "inputs", "settings"), CASES, ids=IDS)
def test_an_operator_equals_the_reference(
    op: str, inputs: list[Any], settings: dict[str, Any], seed: int
) -> None:
    rng = generator(seed)
    arrays = [None if make is None else make(rng) for make in inputs]
    attrs = {key: value for key, value in settings.items() if key != "outputs"}
    want = reference(op, arrays, attrs, settings["outputs"])
    got = ours(op, arrays, attrs, settings["outputs"])
    for a, e in zip(got, want, strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def one(op: str, *arrays: np.ndarray | torch.Tensor, **attrs: Any) -> torch.Tensor:
    """Our result, where the reference refuses the case or departs from the specification."""
    return torch.from_numpy(ours(op, [np.asarray(array) for array in arrays], attrs, 1)[0])


def test_cases_that_the_reference_gets_wrong_equal_torch(seed: int) -> None:
    # Each of these differs from the specification or fails in onnx 1.23's reference; torch has the same operator.
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 5, 3, 3, generator=draw)
    close = torch.testing.assert_close
    close(
        one("LRN", x, size=3, alpha=0.1, beta=0.6, bias=2.0),
        torch.nn.functional.local_response_norm(x, 3, 0.1, 0.6, 2.0),
    )
    close(one("LpNormalization", x, p=1, axis=1), torch.nn.functional.normalize(x, 1.0, 1))
    w, y = torch.randn(4, 2, 3, 3, generator=draw), torch.randn(1, 4, 3, 4, generator=draw)
    close(
        one("ConvTranspose", y, w, group=2, dilations=[1, 2], strides=[2, 1]),
        torch.conv_transpose2d(y, w, groups=2, dilation=(1, 2), stride=(2, 1)),
    )
    z9 = torch.randn(1, 2, 9, generator=draw)
    padded = torch.nn.functional.pad(z9, (2, 1), value=float("-inf"))
    close(
        one("MaxPool", z9, kernel_shape=[4], strides=[2], auto_pad="SAME_LOWER"),
        torch.max_pool1d(padded, 4, 2),
    )
    m = torch.randn(2, 3, generator=draw)
    close(one("Pad", m, np.array([1, -1, 0, 2])), torch.nn.functional.pad(m, (-1, 2, 1, 0)))
    close(one("Swish", x, alpha=0.5), x * torch.sigmoid(0.5 * x))
    close(one("SimplifiedLayerNormalization", m, torch.ones(3)), torch.rms_norm(m, (3,), eps=1e-5))


def test_equal_numbers_keep_their_order_in_top_k() -> None:
    best, where = ours("TopK", [np.array([1.0, 2.0, 2.0, 1.0], np.float32), np.array([3])], {}, 2)
    assert best.tolist() == [2.0, 2.0, 1.0] and where.tolist() == [1, 2, 0]


def test_constant_of_shape_gives_its_dtype() -> None:
    assert one("ConstantOfShape", np.array([2, 1])).tolist() == [[0.0], [0.0]]
    assert one("ConstantOfShape", np.array([2]), value=7).dtype == torch.int64
    assert one("ConstantOfShape", np.array([2]), value=1, dtype="bool").tolist() == [True, True]


BOMBS = [
    ("Expand", [np.zeros(1, np.float32), np.array([1 << 20, 1 << 20])], {}),
    ("Tile", [np.zeros(4, np.float32), np.array([1 << 40])], {}),
    ("ConstantOfShape", [np.array([1 << 20, 1 << 20])], {}),
    ("Range", [np.array(0), np.array(1 << 50), np.array(1)], {}),
    ("Range", [np.array(0), np.array(5), np.array(0)], {}),
    ("Pad", [np.zeros(4, np.float32), np.array([0, 1 << 40])], {}),
    ("OneHot", [np.zeros(4, INT), np.array(1 << 40), np.zeros(2, np.float32)], {}),
    ("Resize", [np.zeros(4, np.float32), None, None, np.array([1 << 40])], {}),
    ("Conv", [np.zeros((1, 1, 4), np.float32), np.zeros((1, 1, 1), np.float32)], {"pads": [1 << 40, 0]}),
    (
        "ConvTranspose",
        [np.zeros((1, 1, 4), np.float32), np.zeros((1, 1, 1), np.float32)],
        {"strides": [1 << 40]},
    ),
    ("MaxPool", [np.zeros((1, 1, 4), np.float32)], {"kernel_shape": [2], "pads": [1 << 40, 0]}),
    ("Add", [np.zeros((1 << 16, 1), np.float32), np.zeros(1 << 16, np.float32)], {}),
    ("MatMul", [np.zeros((1 << 16, 1), np.float32), np.zeros((1, 1 << 16), np.float32)], {}),
    ("Gemm", [np.zeros((1 << 16, 1), np.float32), np.zeros((1, 1 << 16), np.float32)], {}),
    ("Einsum", [np.zeros(1 << 16, np.float32), np.zeros(1 << 16, np.float32)], {"equation": "i,j->ij"}),
    ("Gather", [np.zeros((1, 1 << 16), np.float32), np.zeros(1 << 16, INT)], {}),
]
WRONG = [
    ("Gather", [np.zeros(3, np.float32), np.array([3])], {}),
    ("GatherND", [np.zeros(3, np.float32), np.array([[-4]])], {}),
    ("ScatterND", [np.zeros(3, np.float32), np.array([[9]]), np.zeros(1, np.float32)], {}),
    ("Reshape", [np.zeros(3, np.float32), np.array([2, 2])], {}),
    ("Reshape", [np.zeros(3, np.float32), np.array([3, 0])], {}),
    ("Squeeze", [np.zeros((2, 1), np.float32), np.array([0])], {}),
    ("Cast", [np.zeros(3, np.float32)], {"to": 8}),
    ("Softmax", [np.zeros(3, np.float32)], {"axis": "0"}),
    ("TopK", [np.zeros(3, np.float32), np.array([4])], {}),
    ("Split", [np.zeros(3, np.float32), np.array([1, 1])], {}),
    ("Conv", [np.zeros((1, 1, 2), np.float32), np.zeros((1, 1, 3), np.float32)], {}),
    ("Einsum", [np.zeros(3, np.float32)], {"equation": "i->i; import os"}),
    (
        "BatchNormalization",
        [np.zeros((1, 1), np.float32), *[np.zeros(1, np.float32)] * 4],
        {"training_mode": 1},
    ),
    (
        "LSTM",
        [np.zeros((1, 1, 2), np.float32), np.zeros((1, 8, 3), np.float32), np.zeros((1, 8, 2), np.float32)],
        {},
    ),
    ("MatMul", [np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)], {}),
]


@pytest.mark.parametrize(("op", "arrays", "attrs"), BOMBS + WRONG, ids=[op for op, _, _ in BOMBS + WRONG])
def test_what_cannot_be_is_refused_by_name(op: str, arrays: list[Any], attrs: dict[str, Any]) -> None:
    with pytest.raises(GraphError, match=rf"^{op} 'one'"):
        ours(op, arrays, attrs, 1)


def test_every_operator_is_compared_with_something() -> None:
    tested = {op for op, _, _ in CASES} | {"ConstantOfShape", "LRN", "Swish", "SimplifiedLayerNormalization"}
    assert set(DENSE) - tested == set()
