"""Files of a model → ``Model``: a registry of architectures, each told by what the files contain.

``import_model`` executes nothing that it reads, loads no weight before it is used, and gives the same graph for the
same files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from spore_borg.learn.errors import SourceError
from spore_borg.learn.graph import Model
from spore_borg.learn.importers import (
    audio,
    decoders,
    encoders,
    onnx_known,
    onnx_models,
    recurrent,
    sequential,
    static,
)
from spore_borg.learn.importers.bundle import Bundle

SHOWN_MAX = 12  # files that an error lists

Recogniser = Callable[[Bundle], Model | None]

# In this order: what a configuration names, then what tensors' names tell, then graphs that say nothing of themselves.
ARCHITECTURES: tuple[tuple[str, Recogniser], ...] = (
    ("BERT, RoBERTa, DistilBERT, ALBERT (config.json, weights, tokenizer)", encoders.recognise),
    ("GPT-2, GPT-NeoX, Llama, Mistral, Qwen (config.json, weights, tokenizer)", decoders.recognise),
    ("Magika (config.min.json, model.onnx)", onnx_models.recognise_magika),
    ("Silero voice activity (safetensors)", audio.recognise_vad),
    ("CREPE pitch (torch)", audio.recognise_pitch),
    ("character LSTM or GRU with attention (Keras HDF5, vocabulary in JSON)", recurrent.recognise),
    ("static embeddings (one table, tokenizer.json)", static.recognise),
    ("convolutional or fully connected classifier (torch Sequential)", sequential.recognise),
    ("PaddleOCR reader of text lines (ONNX with its characters)", onnx_known.recognise_reader),
    ("Basic Pitch (nmp.onnx)", onnx_known.recognise_notes),
    ("ONNX graph with one float input", onnx_models.recognise_onnx),
)


def import_model(files: Mapping[str, Path], *, origin: str, licence: str, name: str) -> Model:
    """The model that these files hold.

    Args:
        files: paths by the name that the source gives them, with ``/`` between directories.
        origin: the source as the user gave it, with the version found; licence: in the words of the package.
        name: short, for people.
    Raises:
        SourceError: nothing is recognised (the sentence lists what was found and what is supported), or a file is
            damaged or incomplete.
        GraphError: a graph that cannot be run.
    """
    bundle = Bundle(files, origin=origin, licence=licence, name=name)
    for _, recognise in ARCHITECTURES:
        model = recognise(bundle)
        if model is not None:
            return model
    raise SourceError(_nothing(bundle))


def _nothing(bundle: Bundle) -> str:
    shown = list(bundle.files)[:SHOWN_MAX]
    more = f" and {len(bundle.files) - len(shown)} more" if len(bundle.files) > len(shown) else ""
    parts = [f"No supported model among {len(bundle.files)} files: {', '.join(shown) or 'none'}{more}."]
    for name, weights in bundle.opened():
        names = weights.names()
        tensors = ", ".join(f"{one} {list(weights.shape(one))}" for one in names[:4])
        parts.append(f"{name} has {len(names)} tensors: {tensors}{', …' if len(names) > 4 else ''}.")
    parts += [f"{note.rstrip('.')}." for note in bundle.notes]
    parts.append("Supported: " + "; ".join(label for label, _ in ARCHITECTURES) + ".")
    return " ".join(parts)
