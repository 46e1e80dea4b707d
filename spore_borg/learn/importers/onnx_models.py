"""Models that come as ONNX graphs: Magika's file types, classifiers of images, and anything with one input.

The graph is the file's own; what is added is how items become its input and what its output means.
"""

from __future__ import annotations

import posixpath
from typing import Any

from spore_borg.learn.errors import LearnError, SourceError
from spore_borg.learn.graph import Graph, Model, Node, Weights
from spore_borg.learn.importers.bundle import Bundle

LABELS_MAX = 10_000
FEEDS_MAX = 1 << 20  # numbers in one fixed input of a generic graph


def recognise_magika(bundle: Bundle) -> Model | None:
    """Magika: a graph over the first and the last bytes of a file, with its settings beside it."""
    for name in bundle.named("config.min.json"):
        config = bundle.config(name)
        path = bundle.beside(name, "model.onnx")
        if path is None or "target_labels_space" not in config or "beg_size" not in config:
            continue
        if config.get("mid_size") or config.get("use_inputs_at_offsets"):
            raise SourceError(
                f"{name} asks for bytes from the middle of files; only beginning and end are supported."
            )
        graph, weights = _read(bundle, path)
        keys = ("beg_size", "end_size", "block_size", "padding_token")
        adapter: dict[str, Any] = {key: int(config[key]) for key in keys}
        renamed = config.get("overwrite_map", {})
        adapter |= {
            "kind": "file-type",
            "input": graph.inputs[0].name,
            "dtype": graph.inputs[0].dtype,
            "labels": [str(renamed.get(label, label)) for label in config["target_labels_space"]],
        }
        graph, adapter["output"], adapter["form"] = before_softmax(graph)
        return bundle.model(
            graph, weights, adapter, {}, head="classifier", modality="bytes", architecture="magika"
        )
    return None


def _read(bundle: Bundle, name: str) -> tuple[Graph, Weights]:
    from spore_borg.learn.importers import onnx  # only needed where there is such a file

    return onnx.read(bundle.files[name])


def before_softmax(graph: Graph) -> tuple[Graph, str, str]:
    """The graph with what its last softmax or sigmoid sees as one more output, where it ends with one.

    Logits compare better than probabilities, most of which are nearly 0 or 1.

    Returns:
        The graph, the output to read, and its form: ``logits`` or ``unknown``.
    """
    makers: dict[str, Node] = {name: node for node in graph.nodes for name in node.outputs}
    name = graph.outputs[0]
    maker = makers.get(name)
    while maker is not None and maker.op in ("Identity", "Cast", "Reshape", "Squeeze", "Flatten"):
        name = maker.inputs[0]
        maker = makers.get(name)
    if maker is None or maker.op != "Softmax":
        return graph, graph.outputs[0], "unknown"
    seen = maker.inputs[0]
    outputs = graph.outputs if seen in graph.outputs else (*graph.outputs, seen)
    return Graph(graph.inputs, outputs, graph.nodes), seen, "logits"


def recognise_onnx(bundle: Bundle) -> Model | None:
    """Any other ONNX file with one input of real numbers, the smallest first; None if there is none."""
    for name in sorted(bundle.named(".onnx"), key=lambda name: (bundle.files[name].stat().st_size, name)):
        try:
            graph, weights = _read(bundle, name)
        except LearnError as error:
            bundle.notes.append(f"{name}: {error}")
            continue
        if len(graph.inputs) == 1 and graph.inputs[0].dtype == "float32" and graph.outputs:
            return _generic(bundle, name, graph, weights)
        ports = ", ".join(f"{port.name} {port.dtype} {list(port.shape)}" for port in graph.inputs)
        bundle.notes.append(f"{name}: one input of float32 is supported without an adapter; this has {ports}")
    return None


def _generic(bundle: Bundle, name: str, graph: Graph, weights: Weights) -> Model:
    port = graph.inputs[0]
    graph, output, form = before_softmax(graph)
    shape = port.shape
    settings: dict[str, Any] = {
        "input": port.name,
        "output": output,
        "form": form,
        "labels": _labels(bundle, name),
    }
    if len(shape) == 4 and (shape[1] in (1, 3) or shape[3] in (1, 3)):
        settings |= _picture(name, shape)
        known = form == "logits" or settings["labels"] or settings["side"] == [28, 28]
        head = "classifier" if known else "unknown"
        return bundle.model(graph, weights, settings, {}, head=head, modality="image", architecture="onnx")
    sides = [side or 1 for side in shape[1:]]
    size = 1
    for side in sides:
        size *= side
    if size > FEEDS_MAX:
        raise SourceError(
            f"{name} takes {size} numbers at once; at most {FEEDS_MAX} are fed without an adapter."
        )
    settings |= {"kind": "raw", "sizes": sides}
    head = "classifier" if form == "logits" else "unknown"
    return bundle.model(graph, weights, settings, {}, head=head, modality="bytes", architecture="onnx")


def _picture(name: str, shape: tuple[int | None, ...]) -> dict[str, Any]:
    """Settings of an input that is an image: [b, c, h, w], or [b, h, w, c] as TensorFlow has it."""
    last = shape[1] not in (1, 3)
    channels = shape[3] if last else shape[1]
    height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
    assert channels is not None
    mean, deviation = [0.5] * channels, [0.5] * channels
    settings: dict[str, Any] = {"kind": "image-classifier", "channels": channels}
    if channels == 1:
        mean, deviation = [0.0], [1.0]
    if posixpath.basename(name) == "open-nsfw.onnx":
        # Yahoo's model takes blue, green, red from 0 to 255, less the means of its training set.
        mean, deviation = [104.0, 117.0, 123.0], [1.0, 1.0, 1.0]
        settings |= {"bytes_scale": True, "reversed": True, "labels": ["safe", "nsfw"]}
    elif (channels, height, width) == (1, 28, 28):
        settings["bytes_scale"] = True  # the MNIST graph of the ONNX model zoo takes 0 to 255
    return {
        **settings,
        "side": [height or 224, width or 224],
        "mean": mean,
        "deviation": deviation,
        "channels_last": last,
    }


def _labels(bundle: Bundle, name: str) -> list[str]:
    """Names of classes from a text of one label a line beside the graph, if there is one."""
    for other in ("labels.txt", "classes.txt", f"{posixpath.splitext(posixpath.basename(name))[0]}.txt"):
        found = bundle.beside(name, other)
        if found is not None:
            lines = bundle.read(found).decode("utf-8", "replace").splitlines()
            return [line.strip() for line in lines if line.strip()][:LABELS_MAX]
    return []
