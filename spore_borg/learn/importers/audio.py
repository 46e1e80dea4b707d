"""Audio models that are known by the names of their tensors: Silero's voice activity, CREPE's pitch."""

from __future__ import annotations

import torch

from spore_borg.learn.errors import SourceError
from spore_borg.learn.graph import Graph, Model, Weights
from spore_borg.learn.importers.building import Builder
from spore_borg.learn.importers.bundle import Bundle
from spore_borg.learn.importers.views import GateBias, Gates, Renamed

VAD_HOP = 512  # samples per decision at 16 kHz: 32 ms
VAD_CONTEXT = 64  # samples of the frame before
PITCH_FRAME = 1024  # samples that CREPE looks at
PITCH_HOP = 512  # 32 ms; the package takes 10 ms, at three times the work
PITCH_CENTS = 1997.3794084376191  # of the first bin, above 10 Hz
BATCH_NORM_EPSILON = 0.0010000000474974513
_VAD = {"stft_conv.weight", "conv1.weight", "conv4.weight", "lstm_cell.weight_ih", "final_conv.weight"}
_VAD_ADAPTER = {
    "kind": "audio-tagger",
    "frame": VAD_HOP + VAD_CONTEXT,
    "hop": VAD_HOP,
    "before": VAD_CONTEXT,
    "scale": "int16",
    "labels": ["speech"],
}
_CREPE = {"conv1.weight", "conv6.weight", "conv6_BN.running_mean", "classifier.weight"}


def recognise_vad(bundle: Bundle) -> Model | None:
    """Silero's voice activity detector at 16 kHz, all frames of an item as one sequence.

    The graph for sequences comes first: version 6.2.3 of the package has newer weights in it than in the safetensors.
    """
    for name in bundle.named("silero_vad_16k_sequence.onnx"):
        return _vad_graph(bundle, name)
    for _, weights in bundle.opened():
        if set(weights.names()) >= _VAD:
            return _vad(bundle, weights)
    return None


def _vad_graph(bundle: Bundle, name: str) -> Model:
    from spore_borg.learn.importers import onnx  # only needed where there is such a file

    start = torch.zeros(1, 1, 128)
    graph, weights = onnx.read(bundle.files[name], values={"h": start, "c": start})
    hidden = [node.outputs[0] for node in graph.nodes if node.op == "Relu"]
    if len(graph.inputs) != 1 or not hidden:
        raise SourceError(
            f"{name} is not laid out as version 6 of silero-vad; take the safetensors of the package."
        )
    graph = Graph(graph.inputs, (graph.outputs[0], hidden[-1]), graph.nodes)
    adapter = {
        **_VAD_ADAPTER,
        "input": graph.inputs[0].name,
        "output": graph.outputs[0],
        "hidden": hidden[-1],
    }
    return bundle.model(
        graph, weights, adapter, {}, head="sequence_tagger", modality="audio", architecture="silero-vad"
    )


def _vad(bundle: Bundle, weights: Weights) -> Model:
    b = Builder(weights)
    frames = b.port("frames", "float32", None, VAD_HOP + VAD_CONTEXT)
    rows, _, window = weights.shape("stft_conv.weight")
    bins, units = rows // 2, weights.shape("lstm_cell.weight_hh")[1]
    wave = b.op("Unsqueeze", "wave", [frames, b.ints(1)])
    padded = b.op("Pad", "wave.padded", [wave, b.ints(0, 0, 0, 0, 0, window // 4)], mode="reflect")
    b.op(
        "Conv", "stft", [padded, b.weight("stft_conv.weight")], kernel_shape=(window,), strides=(window // 2,)
    )
    b.ops("Split", "stft.parts", ["stft", b.ints(bins, rows - bins)], ["stft.real", "stft.imaginary"], axis=1)
    squares = [b.op("Mul", f"{part}.square", [part, part]) for part in ("stft.real", "stft.imaginary")]
    value = b.op("Sqrt", "magnitude", [b.op("Add", "power", squares)])
    for number, stride in enumerate((1, 2, 2, 1), 1):
        inputs = [value, b.weight(f"conv{number}.weight"), b.weight(f"conv{number}.bias")]
        made = b.op("Conv", f"conv{number}", inputs, kernel_shape=(3,), strides=(stride,), pads=(1, 1))
        value = b.op("Relu", f"conv{number}.relu", [made])
    flat = b.op("Squeeze", "frames.encoded", [value, b.ints(2)])
    sequence = b.op("Unsqueeze", "sequence", [flat, b.ints(1)])
    hidden = _lstm(b, "lstm", sequence, "lstm_cell", units)
    active = b.op("Relu", "lstm.relu", [hidden])
    final = b.view("final_conv.matrix", Renamed("final_conv.weight", (units, 1)))
    logit = b.op("MatMul", "final", [active, final])
    b.op("Add", "logits", [logit, b.weight("final_conv.bias")])
    b.op("Sigmoid", "probability", ["logits"])
    graph, views = b.build("probability", "logits", "lstm.relu")
    adapter = {**_VAD_ADAPTER, "output": "probability", "hidden": "lstm.relu"}
    return bundle.model(
        graph, views, adapter, {}, head="sequence_tagger", modality="audio", architecture="silero-vad"
    )


def _lstm(b: Builder, name: str, sequence: str, prefix: str, units: int) -> str:
    """torch's LSTM (gates i f g o) over [t, 1, in]: [t, units]."""
    order = (0, 3, 1, 2)
    inputs = [
        sequence,
        b.view(f"{prefix}.W", Gates(f"{prefix}.weight_ih", order)),
        b.view(f"{prefix}.R", Gates(f"{prefix}.weight_hh", order)),
        b.view(f"{prefix}.B", GateBias((f"{prefix}.bias_ih", f"{prefix}.bias_hh"), order, units)),
    ]
    b.ops("LSTM", name, inputs, [f"{name}.all"], hidden_size=units, direction="forward")
    return b.op("Squeeze", f"{name}.hidden", [f"{name}.all", b.ints(1, 2)])


def recognise_pitch(bundle: Bundle) -> Model | None:
    """CREPE in torch: the smallest of the files that hold one."""
    for _, weights in sorted(bundle.opened(), key=lambda pair: bundle.files[pair[0]].stat().st_size):
        if set(weights.names()) >= _CREPE:
            return _pitch(bundle, weights)
    return None


def _pitch(bundle: Bundle, weights: Weights) -> Model:
    b = Builder(weights)
    frames = b.port("frames", "float32", None, PITCH_FRAME)
    value = b.op("Unsqueeze", "wave", [frames, b.ints(1, 3)])
    for number in range(1, 7):
        name, size = f"conv{number}", weights.shape(f"conv{number}.weight")[2]
        stride, pads = (4, (254, 254)) if number == 1 else (1, ((size - 1) // 2, size // 2))
        made = b.op(
            "Conv", name, [value, b.weight(f"{name}.weight"), b.weight(f"{name}.bias")],
            kernel_shape=(size, 1), strides=(stride, 1), pads=(pads[0], 0, pads[1], 0),
        )  # fmt: skip
        active = b.op("Relu", f"{name}.relu", [made])
        norm = [b.weight(f"{name}_BN.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        value = b.op("BatchNormalization", f"{name}.norm", [active, *norm], epsilon=BATCH_NORM_EPSILON)
        value = b.op("MaxPool", f"{name}.pool", [value], kernel_shape=(2, 1), strides=(2, 1))
    turned = b.op("Transpose", "turned", [value], perm=(0, 2, 1, 3))
    flat = b.op("Reshape", "flat", [turned, b.ints(0, -1)])
    b.op("Gemm", "logits", [flat, b.weight("classifier.weight"), b.weight("classifier.bias")], transB=1)
    b.op("Sigmoid", "probability", ["logits"])
    graph, views = b.build("probability", "logits")
    bins = weights.shape("classifier.weight")[0]
    adapter = {
        "kind": "pitch", "frame": PITCH_FRAME, "hop": PITCH_HOP, "before": PITCH_FRAME // 2, "scale": "standard",
        "output": "probability", "cents": [PITCH_CENTS, 20.0], "bins": bins,
    }  # fmt: skip
    return bundle.model(
        graph, views, adapter, {}, head="sequence_tagger", modality="audio", architecture="crepe"
    )
