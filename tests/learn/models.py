"""Tiny models of every architecture, written as the files that real ones come as: for tests that need no download.

Each function writes into a directory and returns ``import_model``'s files. Weights are drawn from a fixed seed, scaled
so that activations keep a size near one; the audio model's first layer is a true Fourier basis.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

from spore_borg.learn import run
from spore_borg.learn.adapters import adapter
from spore_borg.learn.graph import Model
from spore_borg.learn.importers import import_model

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = (  # noqa: SIM905 - a list of quoted words reads worse
    "the a of and to in is was he she it king queen lord god man woman house river water bread law word day night "
    "good evil went came said gave made took saw heard people city land son father mother brother children"
).split()
SMILES_TOKENS = "c C ( ) O 1 2 = N . n 3 F Cl >> # - + S s o Br I [nH] / \\ 4".split()  # noqa: SIM905 - as above
CHARS = " etaoinshrdlucmfwypvbgkjqxz.,;:'\"!?-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Files = dict[str, Path]
Tensors = dict[str, torch.Tensor]


class Draw:
    """Tensors from a seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator) * scale

    def linear(self, tensors: Tensors, name: str, out: int, into: int, bias: bool = True) -> None:
        tensors[f"{name}.weight"] = self.normal(out, into, scale=into**-0.5)
        if bias:
            tensors[f"{name}.bias"] = self.normal(out, scale=0.1)

    def norm(self, tensors: Tensors, name: str, width: int, bias: bool = True) -> None:
        tensors[f"{name}.weight"] = 1.0 + self.normal(width, scale=0.1)
        if bias:
            tensors[f"{name}.bias"] = self.normal(width, scale=0.1)


def imported(files: Mapping[str, Path], name: str = "tiny") -> Model:
    """The model of these files."""
    return import_model(files, origin="file:tiny", licence="CC0-1.0", name=name)


def _write(
    folder: Path, texts: Mapping[str, object], tensors: Tensors, file: str = "model.safetensors"
) -> Files:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    if tensors:
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / file)
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _vocabulary() -> list[str]:
    pieces = [*LETTERS, *(f"##{letter}" for letter in LETTERS), *".,;:!?'0123456789"]
    return [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *(piece for piece in pieces if piece not in WORDS),
    ]


def tiny_bert(folder: Path, head: str = "embedder", width: int = 32, layers: int = 2, seed: int = 1) -> Files:
    """BERT with WordPiece; ``head`` is embedder, masked_lm, classifier or sequence_tagger."""
    draw, t, words = Draw(seed), Tensors(), _vocabulary()
    p = "" if head == "embedder" else "bert."
    for name, rows in (("word", len(words)), ("position", 64), ("token_type", 2)):
        t[f"{p}embeddings.{name}_embeddings.weight"] = draw.normal(rows, width)
    draw.norm(t, f"{p}embeddings.LayerNorm", width)
    for number in range(layers):
        where = f"{p}encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            draw.linear(t, f"{where}.attention.{part}", width, width)
        draw.norm(t, f"{where}.attention.output.LayerNorm", width)
        draw.linear(t, f"{where}.intermediate.dense", 2 * width, width)
        draw.linear(t, f"{where}.output.dense", width, 2 * width)
        draw.norm(t, f"{where}.output.LayerNorm", width)
    config = {
        "model_type": "bert", "hidden_size": width, "num_attention_heads": 4, "num_hidden_layers": layers,
        "intermediate_size": 2 * width, "max_position_embeddings": 64, "vocab_size": len(words), "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "pad_token_id": 0, "architectures": ["BertModel"],
    }  # fmt: skip
    texts: dict[str, object] = {"vocab.txt": "\n".join(words) + "\n", "config.json": config}
    if head == "embedder":
        texts["modules.json"] = [
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ]
        texts["1_Pooling/config.json"] = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    elif head == "masked_lm":
        config["architectures"] = ["BertForMaskedLM"]
        draw.linear(t, "cls.predictions.transform.dense", width, width)
        draw.norm(t, "cls.predictions.transform.LayerNorm", width)
        t["cls.predictions.bias"] = draw.normal(len(words), scale=0.1)
    else:
        names = {
            "classifier": "BertForSequenceClassification",
            "sequence_tagger": "BertForTokenClassification",
        }
        config |= {"architectures": [names[head]], "id2label": {"0": "no", "1": "yes", "2": "perhaps"}}
        draw.linear(t, "bert.pooler.dense", width, width)
        draw.linear(t, "classifier", 3, width)
    return _write(folder, texts, t)


def tiny_albert(folder: Path, seed: int = 2) -> Files:
    """ALBERT over SMILES: three layers that share their weights; predicts masked tokens."""
    draw, t, narrow, width = Draw(seed), Tensors(), 16, 32
    words = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SMILES_TOKENS]
    for name, rows in (("word", len(words)), ("position", 64), ("token_type", 2)):
        t[f"albert.embeddings.{name}_embeddings.weight"] = draw.normal(rows, narrow)
    draw.norm(t, "albert.embeddings.LayerNorm", narrow)
    draw.linear(t, "albert.encoder.embedding_hidden_mapping_in", width, narrow)
    where = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    for part in ("query", "key", "value", "dense"):
        draw.linear(t, f"{where}.attention.{part}", width, width)
    draw.norm(t, f"{where}.attention.LayerNorm", width)
    draw.linear(t, f"{where}.ffn", 2 * width, width)
    draw.linear(t, f"{where}.ffn_output", width, 2 * width)
    draw.norm(t, f"{where}.full_layer_layer_norm", width)
    draw.linear(t, "predictions.dense", narrow, width)
    draw.norm(t, "predictions.LayerNorm", narrow)
    draw.linear(t, "predictions.decoder", len(words), narrow)
    config = {
        "model_type": "albert", "hidden_size": width, "embedding_size": narrow, "num_attention_heads": 4,
        "num_hidden_layers": 3, "num_hidden_groups": 1, "inner_group_num": 1, "max_position_embeddings": 64,
        "hidden_act": "gelu", "architectures": ["AlbertForMaskedLM"], "pad_token_id": 0,
    }  # fmt: skip
    return _write(folder, {"config.json": config, "vocab.txt": "\n".join(words) + "\n"}, t)


def _byte_tokenizer() -> object:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {char: place for place, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    library = Tokenizer(models.BPE({**vocab, "<|endoftext|>": len(vocab)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<|endoftext|>"])
    return json.loads(library.to_str())


def tiny_gpt2(folder: Path, width: int = 32, layers: int = 2, seed: int = 3) -> Files:
    """GPT-2 over bytes with tied embeddings."""
    draw, t = Draw(seed), Tensors()
    t["wte.weight"], t["wpe.weight"] = draw.normal(257, width, scale=0.5), draw.normal(64, width, scale=0.2)
    for number in range(layers):
        where = f"h.{number}"
        for norm in ("ln_1", "ln_2"):
            draw.norm(t, f"{where}.{norm}", width)
        for name, into, out in (
            ("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width), ("mlp.c_proj", 4 * width, width),
        ):  # fmt: skip
            t[f"{where}.{name}.weight"] = draw.normal(into, out, scale=into**-0.5)
            t[f"{where}.{name}.bias"] = draw.normal(out, scale=0.1)
    draw.norm(t, "ln_f", width)
    config = {
        "model_type": "gpt2", "n_embd": width, "n_head": 4, "n_layer": layers, "n_positions": 64, "vocab_size": 257,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "architectures": ["GPT2LMHeadModel"],
    }  # fmt: skip
    return _write(folder, {"config.json": config, "tokenizer.json": _byte_tokenizer()}, t)


def tiny_llama(folder: Path, family: str = "llama", seed: int = 4) -> Files:
    """A Llama-like decoder: rotary positions, RMS norm, gated linear units, two keys for four queries.

    ``family`` qwen2 adds biases to queries, keys and values, qwen3 norms to queries and keys; both tie embeddings.
    """
    draw, t, width, each = Draw(seed), Tensors(), 32, 8
    t["model.embed_tokens.weight"] = draw.normal(257, width, scale=0.5)
    for number in range(2):
        where = f"model.layers.{number}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            draw.norm(t, f"{where}.{norm}", width, bias=False)
        for letter, out in (("q", 4 * each), ("k", 2 * each), ("v", 2 * each)):
            draw.linear(t, f"{where}.self_attn.{letter}_proj", out, width, bias=family == "qwen2")
        draw.linear(t, f"{where}.self_attn.o_proj", width, 4 * each, bias=False)
        if family == "qwen3":
            for letter in "qk":
                draw.norm(t, f"{where}.self_attn.{letter}_norm", each, bias=False)
        for name, out, into in (("gate", 48, width), ("up", 48, width), ("down", width, 48)):
            draw.linear(t, f"{where}.mlp.{name}_proj", out, into, bias=False)
    draw.norm(t, "model.norm", width, bias=False)
    if family == "llama":
        draw.linear(t, "lm_head", 257, width, bias=False)
    config = {
        "model_type": family, "hidden_size": width, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "intermediate_size": 48, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "hidden_act": "silu", "max_position_embeddings": 64, "head_dim": each, "vocab_size": 257,
        "tie_word_embeddings": family != "llama",
    }  # fmt: skip
    return _write(folder, {"config.json": config, "tokenizer.json": _byte_tokenizer()}, t)


def tiny_neox(folder: Path, seed: int = 5) -> Files:
    """GPT-NeoX: fused queries, keys and values per head, rotary positions on a part, both branches in parallel."""
    draw, t, width = Draw(seed), Tensors(), 32
    t["gpt_neox.embed_in.weight"] = draw.normal(257, width, scale=0.5)
    for number in range(2):
        where = f"gpt_neox.layers.{number}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            draw.norm(t, f"{where}.{norm}", width)
        draw.linear(t, f"{where}.attention.query_key_value", 3 * width, width)
        draw.linear(t, f"{where}.attention.dense", width, width)
        draw.linear(t, f"{where}.mlp.dense_h_to_4h", 4 * width, width)
        draw.linear(t, f"{where}.mlp.dense_4h_to_h", width, 4 * width)
    draw.norm(t, "gpt_neox.final_layer_norm", width)
    draw.linear(t, "embed_out", 257, width, bias=False)
    config = {
        "model_type": "gpt_neox", "hidden_size": width, "num_attention_heads": 4, "num_hidden_layers": 2,
        "rotary_pct": 0.5, "rotary_emb_base": 10000, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
        "use_parallel_residual": True, "max_position_embeddings": 64,
    }  # fmt: skip
    return _write(folder, {"config.json": config, "tokenizer.json": _byte_tokenizer()}, t)


def tiny_cnn(folder: Path, norm: bool = False, seed: int = 6) -> Files:
    """A classifier of 28 × 28 digits as a torch checkpoint: two convolutions with pooling, two linear layers."""
    draw, t = Draw(seed), Tensors()
    step = 4 if norm else 3
    for number, (out, into) in enumerate(((8, 1), (16, 8))):
        name = f"features.{number * step}"
        t[f"{name}.weight"] = draw.normal(out, into, 3, 3, scale=(into * 9) ** -0.5)
        t[f"{name}.bias"] = draw.normal(out, scale=0.1)
        if norm:
            place = f"features.{number * step + 1}"
            draw.norm(t, place, out)
            t[f"{place}.running_mean"] = draw.normal(out, scale=0.1)
            t[f"{place}.running_var"] = 1.0 + draw.normal(out, scale=0.1).abs()
            t[f"{place}.num_batches_tracked"] = torch.tensor(1)
    draw.linear(t, "classifier.0", 32, 16 * 7 * 7)
    draw.linear(t, "classifier.2", 10, 32)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(t, folder / "digits.pth")
    return {"digits.pth": folder / "digits.pth"}


def tiny_lstm_lm(folder: Path, kind: str = "lstm", cudnn: bool = False, seed: int = 7) -> Files:
    """A character model as Keras keeps it: two LSTM (or GRU) layers of 16, attention, softmax."""
    draw, width, units, count = Draw(seed), 12, 16, len(CHARS) + 1
    gates = 4 if kind == "lstm" else 3
    tensors: dict[str, torch.Tensor] = {"embedding/embedding/embeddings:0": draw.normal(count, width)}
    for layer, into in (("rnn_1", width), ("rnn_2", units)):
        tensors[f"{layer}/{layer}/kernel:0"] = draw.normal(into, gates * units, scale=into**-0.5)
        tensors[f"{layer}/{layer}/recurrent_kernel:0"] = draw.normal(units, gates * units, scale=units**-0.5)
        size = (2, gates * units) if kind == "gru" else (gates * units * (2 if cudnn else 1),)
        tensors[f"{layer}/{layer}/bias:0"] = draw.normal(*size, scale=0.2)
    joined = width + 2 * units
    tensors["attention/attention/attention_W:0"] = draw.normal(joined, 1, scale=joined**-0.5)
    tensors["output/output/kernel:0"] = draw.normal(joined, count, scale=2 * joined**-0.5)
    tensors["output/output/bias:0"] = draw.normal(count, scale=0.2)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "char_weights.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [
            name.encode() for name in ("embedding", "rnn_1", "rnn_2", "attention", "output")
        ]
        for name, value in tensors.items():
            file.create_dataset(name, data=value.numpy())
    (folder / "char_vocab.json").write_text(json.dumps({char: place + 1 for place, char in enumerate(CHARS)}))
    return {"char_weights.hdf5": path, "char_vocab.json": folder / "char_vocab.json"}


def tiny_static_embedder(folder: Path, width: int = 24, seed: int = 8) -> Files:
    """A table of word embeddings in float16 with a tokenizer of words and letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = ["[UNK]", *(word for word in _vocabulary() if not word.startswith("["))]
    library = Tokenizer(
        models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]")
    )
    library.normalizer, library.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    table = Draw(seed).normal(len(words), width).half()
    return _write(folder, {"tokenizer.json": json.loads(library.to_str())}, {"embedding.weight": table})


def tiny_audio(folder: Path, units: int = 16, seed: int = 9) -> Files:
    """Voice activity in Silero's layout, with 16 channels: Fourier basis, four convolutions, an LSTM, one output."""
    draw, t, window = Draw(seed), Tensors(), 256
    place, bins = (
        torch.arange(window, dtype=torch.float64),
        torch.arange(window // 2 + 1, dtype=torch.float64),
    )
    angle = 2 * math.pi * bins[:, None] * place / window
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * place / window)
    t["stft_conv.weight"] = torch.cat([angle.cos() * hann, -angle.sin() * hann]).float().unsqueeze(1)
    for number, (out, into) in enumerate(
        ((units, window // 2 + 1), (units, units), (units, units), (units, units)), 1
    ):
        t[f"conv{number}.weight"] = draw.normal(out, into, 3, scale=(3 * into) ** -0.5)
        t[f"conv{number}.bias"] = draw.normal(out, scale=0.1)
    for side in ("ih", "hh"):
        t[f"lstm_cell.weight_{side}"] = draw.normal(4 * units, units, scale=units**-0.5)
        t[f"lstm_cell.bias_{side}"] = draw.normal(4 * units, scale=0.1)
    t["final_conv.weight"], t["final_conv.bias"] = draw.normal(1, units, 1, scale=units**-0.5), draw.normal(1)
    return _write(folder, {}, t, "voice_16k.safetensors")


def tiny_pitch(folder: Path, seed: int = 10) -> Files:
    """CREPE's layout with few channels, as a torch checkpoint."""
    draw, t = Draw(seed), Tensors()
    channels = (1, 8, 4, 4, 4, 4, 4)
    for number in range(1, 7):
        out, into, size = channels[number], channels[number - 1], 512 if number == 1 else 64
        t[f"conv{number}.weight"] = draw.normal(out, into, size, 1, scale=(into * size) ** -0.5)
        t[f"conv{number}.bias"] = draw.normal(out, scale=0.1)
        draw.norm(t, f"conv{number}_BN", out)
        t[f"conv{number}_BN.running_mean"] = draw.normal(out, scale=0.1)
        t[f"conv{number}_BN.running_var"] = 1.0 + draw.normal(out, scale=0.1).abs()
    draw.linear(t, "classifier", 360, 16)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(t, folder / "pitch.pth")
    return {"pitch.pth": folder / "pitch.pth"}


def tiny_onnx(
    folder: Path, shape: tuple[int | str, ...] = ("n", 12), end: str = "Softmax", seed: int = 11
) -> Files:
    """A graph of two linear layers over any input, ending in a softmax, a reshaped softmax or nothing (``end``)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw, size = Draw(seed), math.prod(side for side in shape if isinstance(side, int))
    weights = {"w1": draw.normal(size, 16, scale=size**-0.5), "w2": draw.normal(16, 3, scale=0.25)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w1"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["active"]),
        helper.make_node("MatMul", ["active", "w2"], ["scores"]),
    ]
    if end:
        nodes.append(helper.make_node("Softmax", ["scores"], ["y"], axis=-1))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y" if end else "scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()],
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "tiny.onnx")
    return {"tiny.onnx": folder / "tiny.onnx"}


def items(modality: str, count: int, seed: int = 0) -> list[str | bytes | torch.Tensor]:
    """Items of a modality for tests: sentences of known words, molecules, noisy images, chords, bytes."""
    rng = np.random.default_rng(seed)
    if modality == "text":
        return [" ".join(rng.choice(WORDS, int(rng.integers(3, 12)))) for _ in range(count)]
    if modality == "smiles":
        return ["".join(rng.choice(["C", "c1ccccc1", "O", "N", "(=O)", "Cl"], 5)) for _ in range(count)]
    if modality == "image":
        return [torch.from_numpy(rng.integers(0, 100, (28, 28)).astype(np.uint8)) for _ in range(count)]
    if modality == "audio":
        time = np.arange(4_000) / 16_000
        waves = [
            np.sin(2 * math.pi * rng.uniform(100, 900) * time) * rng.uniform(0.1, 0.9) for _ in range(count)
        ]
        return [torch.from_numpy((wave * 32_000).astype(np.int16)) for wave in waves]
    return [bytes(rng.integers(0, 256, int(rng.integers(1, 3_000)), dtype=np.uint8)) for _ in range(count)]


TINY: dict[str, Callable[[Path], Files]] = {
    "bert": tiny_bert, "albert": tiny_albert, "gpt2": tiny_gpt2, "llama": tiny_llama, "neox": tiny_neox,
    "cnn": tiny_cnn, "lstm": tiny_lstm_lm, "static": tiny_static_embedder, "audio": tiny_audio, "pitch": tiny_pitch,
    "onnx": tiny_onnx,
}  # fmt: skip


def forward(model: Model, items: list[object]) -> tuple[Tensors, Tensors]:
    """Feeds and outputs of the first batch."""
    feeds = next(adapter(model.adapter, model.assets).feeds(items))[1]  # type: ignore[arg-type]
    return feeds, run.run(model.graph, model.weights, feeds)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.shape == want.shape
    assert torch.allclose(got, want, atol=2e-4, rtol=1e-4), float((got - want).abs().max())
