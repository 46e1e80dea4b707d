"""ONNX files that packages ship and whose way of taking items is published: text in images, notes in music.

The graph is the file's own. Sources: PaddleOCR's recognisers as packed by rapidocr-onnxruntime; Basic Pitch
(Bittner et al. 2022, arXiv 2203.09893).
"""

from __future__ import annotations

from typing import Any

from spore_borg.learn.graph import Graph, Model
from spore_borg.learn.importers.bundle import Bundle

READER_HEIGHT = 48  # rows of pixels that the reader sees
READER_WIDTH = 320  # least columns; longer lines are fed as they are
CHARACTERS_MAX = 100_000
NOTES = 88  # keys of a piano, from A0
NOTE_RATE_HZ = 22_050
NOTE_WINDOW = 43_844  # samples
NOTE_OVERLAP = 30 * 256  # samples that two windows share
NOTE_FRAMES = 172  # per window


def recognise_reader(bundle: Bundle) -> Model | None:
    """A reader of one line of text: its characters stand in the file's own metadata."""
    for name in bundle.named(".onnx"):
        if "rec" not in name.rsplit("/", 1)[-1]:
            continue
        from spore_borg.learn.importers import onnx, onnx_file

        said = {item.key: item.value for item in onnx_file.open_model(bundle.files[name])[0].metadata_props}
        characters = said.get("character", "").split("\n")
        if not 1 < len(characters) <= CHARACTERS_MAX:
            continue
        graph, weights = onnx.read(bundle.files[name])
        if len(graph.inputs) != 1 or graph.inputs[0].shape[1:2] != (3,):
            continue
        adapter: dict[str, Any] = {
            "kind": "text-reader",
            "input": graph.inputs[0].name,
            "output": graph.outputs[0],
            "size": [READER_HEIGHT, READER_WIDTH],
        }
        characters = characters[:-1] if characters[-1] == "" else characters
        assets = {"characters.txt": "\n".join([*characters, " "]).encode()}
        return bundle.model(
            graph,
            weights,
            adapter,
            assets,
            head="sequence_tagger",
            modality="image",
            architecture="ppocr-reader",
        )
    return None


def recognise_notes(bundle: Bundle) -> Model | None:
    """Basic Pitch: which keys of a piano sound, in windows of two seconds at 22,050 Hz."""
    for name in bundle.named("nmp.onnx"):
        from spore_borg.learn.importers import onnx

        graph, weights = onnx.read(bundle.files[name])
        if [port.shape for port in graph.inputs] != [(None, NOTE_WINDOW, 1)] or len(graph.outputs) != 3:
            continue
        # The package reads the outputs by these numbers: 0 is the contour, 1 the notes, 2 their beginnings.
        ordered = tuple(sorted(graph.outputs, key=lambda output: output.rsplit(":", 1)[-1]))
        graph = Graph(graph.inputs, ordered, graph.nodes)
        adapter: dict[str, Any] = {
            "kind": "notes",
            "input": graph.inputs[0].name,
            "outputs": {"contour": ordered[0], "note": ordered[1], "onset": ordered[2]},
            "rate_hz": NOTE_RATE_HZ,
            "window": NOTE_WINDOW,
            "overlap": NOTE_OVERLAP,
        }
        return bundle.model(
            graph, weights, adapter, {}, head="sequence_tagger", modality="audio", architecture="basic-pitch"
        )
    return None
