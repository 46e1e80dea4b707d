"""Importers: each architecture against a plain computation of the same weights, and what happens with other files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from spore_borg.learn.errors import SourceError
from tests.learn import models
from tests.learn.models import close, forward

TEXTS = ["the king said", "water and bread in the house of the lord", "x"]
Tensors = dict[str, Tensor]


def linear(t: Tensors, name: str, x: Tensor) -> Tensor:
    return F.linear(x, t[f"{name}.weight"], t.get(f"{name}.bias"))


def norm(t: Tensors, name: str, x: Tensor, epsilon: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], epsilon)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, causal: bool) -> Tensor:
    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)

    allowed = None if mask is None else mask.bool()[:, None, None, :]
    mixed = F.scaled_dot_product_attention(split(q), split(k), split(v), attn_mask=allowed, is_causal=causal)
    return mixed.transpose(1, 2).flatten(2)


def bert(t: Tensors, prefix: str, feeds: Tensors, layers: int) -> Tensor:
    e = f"{prefix}embeddings."
    hidden = t[f"{e}word_embeddings.weight"][feeds["input_ids"]] + t[f"{e}token_type_embeddings.weight"][0]
    hidden = hidden + t[f"{e}position_embeddings.weight"][: hidden.shape[1]]
    hidden = norm(t, f"{e}LayerNorm", hidden, 1e-12)
    for number in range(layers):
        w = f"{prefix}encoder.layer.{number}"
        q, k, v = (linear(t, f"{w}.attention.self.{part}", hidden) for part in ("query", "key", "value"))
        mixed = attention(q, k, v, 4, feeds["attention_mask"], causal=False)
        seen = norm(
            t,
            f"{w}.attention.output.LayerNorm",
            linear(t, f"{w}.attention.output.dense", mixed) + hidden,
            1e-12,
        )
        wide = F.gelu(linear(t, f"{w}.intermediate.dense", seen))
        hidden = norm(t, f"{w}.output.LayerNorm", linear(t, f"{w}.output.dense", wide) + seen, 1e-12)
    return hidden


@pytest.mark.parametrize("head", ["embedder", "masked_lm", "classifier", "sequence_tagger"])
def test_bert_gives_what_torch_gives(tmp_path: Path, head: str) -> None:
    model = models.imported(models.tiny_bert(tmp_path, head))
    t = load_file(tmp_path / "model.safetensors")
    assert (model.info.head, model.info.modality, model.info.architecture) == (head, "text", "bert")
    feeds, outputs = forward(model, list(TEXTS))
    hidden = bert(t, "" if head == "embedder" else "bert.", feeds, 2)
    real = feeds["attention_mask"].unsqueeze(2).float()
    pooled = (hidden * real).sum(1) / real.sum(1)
    if head == "embedder":
        close(outputs["embedding"], F.normalize(pooled, dim=1))
        assert model.info.params_count == sum(value.numel() for value in t.values())
    elif head == "masked_lm":
        rows = hidden.flatten(0, 1)[feeds["positions"]]
        rows = F.gelu(linear(t, "cls.predictions.transform.dense", rows))
        rows = norm(t, "cls.predictions.transform.LayerNorm", rows, 1e-12)
        close(
            outputs["logits"],
            rows @ t["bert.embeddings.word_embeddings.weight"].T + t["cls.predictions.bias"],
        )
        close(outputs["pooled"], pooled)
    elif head == "classifier":
        close(outputs["logits"], linear(t, "classifier", linear(t, "bert.pooler.dense", hidden[:, 0]).tanh()))
        assert model.adapter["labels"] == ["no", "yes", "perhaps"]
    else:
        close(outputs["logits"], linear(t, "classifier", hidden))


def test_padding_of_a_batch_changes_no_embedding(tmp_path: Path) -> None:
    model = models.imported(models.tiny_bert(tmp_path))
    _, together = forward(model, list(TEXTS))
    alone = torch.cat([forward(model, [text])[1]["embedding"] for text in TEXTS])
    close(together["embedding"], alone)


def test_distilbert_and_roberta_are_bert_under_other_names(tmp_path: Path) -> None:
    files = models.tiny_bert(tmp_path / "bert")
    source, config = load_file(files["model.safetensors"]), json.loads(files["config.json"].read_text())
    _, want = forward(models.imported(files), list(TEXTS))

    distil: Tensors = {}
    names = {
        "encoder.layer": "transformer.layer", "attention.self.query": "attention.q_lin",
        "attention.self.key": "attention.k_lin", "attention.self.value": "attention.v_lin",
        "attention.output.dense": "attention.out_lin", "attention.output.LayerNorm": "sa_layer_norm",
        "intermediate.dense": "ffn.lin1",
    }  # fmt: skip
    for name, value in source.items():
        for old, new in names.items():
            name = name.replace(old, new)
        if name.startswith("transformer.layer"):
            name = name.replace("output.dense", "ffn.lin2").replace("output.LayerNorm", "output_layer_norm")
        if "token_type" not in name:
            distil[f"distilbert.{name}"] = value
    # DistilBERT has no kinds of tokens: BERT's one kind is part of every position.
    places = "distilbert.embeddings.position_embeddings.weight"
    distil[places] = distil[places] + source["embeddings.token_type_embeddings.weight"][0]
    shutil.copytree(tmp_path / "bert", tmp_path / "distil")
    save_file(distil, tmp_path / "distil/model.safetensors")
    said = {
        "model_type": "distilbert", "dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 64, "activation": "gelu",
        "max_position_embeddings": 64,
    }  # fmt: skip
    (tmp_path / "distil/config.json").write_text(json.dumps(said))
    paths = {name: tmp_path / "distil" / name for name in files}
    _, got = forward(models.imported(paths), list(TEXTS))
    close(got["embedding"], want["embedding"])

    shutil.copytree(tmp_path / "bert", tmp_path / "roberta")
    shifted = {f"roberta.{name}": value for name, value in source.items()}
    table = source["embeddings.position_embeddings.weight"]
    shifted["roberta.embeddings.position_embeddings.weight"] = torch.cat([torch.full((2, 32), 9.0), table])[
        :64
    ]
    save_file(shifted, tmp_path / "roberta/model.safetensors")
    said = {**config, "model_type": "roberta", "pad_token_id": 1}
    (tmp_path / "roberta/config.json").write_text(json.dumps(said))
    paths = {name: tmp_path / "roberta" / name for name in files}
    _, got = forward(models.imported(paths), list(TEXTS))
    close(got["embedding"], want["embedding"])


def test_albert_repeats_one_layer(tmp_path: Path) -> None:
    model = models.imported(models.tiny_albert(tmp_path))
    t = load_file(tmp_path / "model.safetensors")
    assert (model.info.head, model.info.modality) == ("masked_lm", "smiles")
    feeds, outputs = forward(model, ["CC(=O)Nc1ccccc1", "C[MASK]O"])
    e = "albert.embeddings."
    hidden = t[f"{e}word_embeddings.weight"][feeds["input_ids"]] + t[f"{e}token_type_embeddings.weight"][0]
    hidden = norm(t, f"{e}LayerNorm", hidden + t[f"{e}position_embeddings.weight"][: hidden.shape[1]], 1e-12)
    hidden = linear(t, "albert.encoder.embedding_hidden_mapping_in", hidden)
    w = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    for _ in range(3):
        q, k, v = (linear(t, f"{w}.attention.{part}", hidden) for part in ("query", "key", "value"))
        mixed = linear(
            t, f"{w}.attention.dense", attention(q, k, v, 4, feeds["attention_mask"], causal=False)
        )
        seen = norm(t, f"{w}.attention.LayerNorm", mixed + hidden, 1e-12)
        wide = linear(t, f"{w}.ffn_output", F.gelu(linear(t, f"{w}.ffn", seen)))
        hidden = norm(t, f"{w}.full_layer_layer_norm", wide + seen, 1e-12)
    rows = F.gelu(linear(t, "predictions.dense", hidden.flatten(0, 1)[feeds["positions"]]))
    close(outputs["logits"], linear(t, "predictions.decoder", norm(t, "predictions.LayerNorm", rows, 1e-12)))
    assert model.info.params_count == sum(value.numel() for value in t.values())


def test_gpt2_gives_what_torch_gives(tmp_path: Path) -> None:
    model = models.imported(models.tiny_gpt2(tmp_path))
    t = load_file(tmp_path / "model.safetensors")
    feeds, outputs = forward(model, list(TEXTS))
    hidden = t["wte.weight"][feeds["input_ids"]] + t["wpe.weight"][: feeds["input_ids"].shape[1]]
    for number in range(2):
        w = f"h.{number}"
        fused = norm(t, f"{w}.ln_1", hidden, 1e-5) @ t[f"{w}.attn.c_attn.weight"] + t[f"{w}.attn.c_attn.bias"]
        mixed = attention(*fused.chunk(3, -1), 4, None, causal=True)
        hidden = hidden + mixed @ t[f"{w}.attn.c_proj.weight"] + t[f"{w}.attn.c_proj.bias"]
        wide = norm(t, f"{w}.ln_2", hidden, 1e-5) @ t[f"{w}.mlp.c_fc.weight"] + t[f"{w}.mlp.c_fc.bias"]
        hidden = (
            hidden
            + F.gelu(wide, approximate="tanh") @ t[f"{w}.mlp.c_proj.weight"]
            + t[f"{w}.mlp.c_proj.bias"]
        )
    rows = norm(t, "ln_f", hidden, 1e-5).flatten(0, 1)[feeds["positions"]]
    close(outputs["logits"], rows @ t["wte.weight"].T)


def rotated(x: Tensor, size: int) -> Tensor:
    """[b, h, t, d] with its first ``size`` numbers turned, as pairs of complex numbers."""
    half = size // 2
    turns = 10000.0 ** -(torch.arange(half) / half)
    angle = torch.arange(x.shape[2])[:, None] * turns
    pair = torch.complex(x[..., :half].contiguous(), x[..., half:size].contiguous()) * torch.polar(
        torch.ones(()), angle
    )
    return torch.cat([pair.real, pair.imag, x[..., size:]], -1)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, 1e-6)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_llama_and_its_relatives_give_what_torch_gives(tmp_path: Path, family: str) -> None:
    model = models.imported(models.tiny_llama(tmp_path, family))
    t = load_file(tmp_path / "model.safetensors")
    feeds, outputs = forward(model, list(TEXTS))
    hidden = t["model.embed_tokens.weight"][feeds["input_ids"]]
    for number in range(2):
        w = f"model.layers.{number}"
        ready = rms(hidden, t[f"{w}.input_layernorm.weight"])

        def heads(letter: str, count: int, ready: Tensor = ready, w: str = w) -> Tensor:
            value = (
                linear(t, f"{w}.self_attn.{letter}_proj", ready)
                .reshape(*ready.shape[:2], count, 8)
                .transpose(1, 2)
            )
            own = t.get(f"{w}.self_attn.{letter}_norm.weight")
            return value if own is None else rms(value, own)

        q, k, v = rotated(heads("q", 4), 8), rotated(heads("k", 2), 8), heads("v", 2)
        mixed = (
            F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            .transpose(1, 2)
            .flatten(2)
        )
        hidden = hidden + linear(t, f"{w}.self_attn.o_proj", mixed)
        ready = rms(hidden, t[f"{w}.post_attention_layernorm.weight"])
        wide = F.silu(linear(t, f"{w}.mlp.gate_proj", ready)) * linear(t, f"{w}.mlp.up_proj", ready)
        hidden = hidden + linear(t, f"{w}.mlp.down_proj", wide)
    rows = rms(hidden, t["model.norm.weight"]).flatten(0, 1)[feeds["positions"]]
    table = t.get("lm_head.weight", t["model.embed_tokens.weight"])
    close(outputs["logits"], rows @ table.T)


def test_neox_gives_what_torch_gives(tmp_path: Path) -> None:
    model = models.imported(models.tiny_neox(tmp_path))
    t = load_file(tmp_path / "model.safetensors")
    feeds, outputs = forward(model, list(TEXTS))
    hidden = t["gpt_neox.embed_in.weight"][feeds["input_ids"]]
    for number in range(2):
        w = f"gpt_neox.layers.{number}"
        fused = linear(t, f"{w}.attention.query_key_value", norm(t, f"{w}.input_layernorm", hidden, 1e-5))
        q, k, v = fused.reshape(*fused.shape[:2], 4, 24).transpose(1, 2).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(rotated(q, 4), rotated(k, 4), v, is_causal=True)
        out = linear(t, f"{w}.attention.dense", mixed.transpose(1, 2).flatten(2))
        ready = norm(t, f"{w}.post_attention_layernorm", hidden, 1e-5)
        hidden = (
            hidden
            + out
            + linear(t, f"{w}.mlp.dense_4h_to_h", F.gelu(linear(t, f"{w}.mlp.dense_h_to_4h", ready)))
        )
    rows = norm(t, "gpt_neox.final_layer_norm", hidden, 1e-5).flatten(0, 1)[feeds["positions"]]
    close(outputs["logits"], rows @ t["embed_out.weight"].T)


def recurrent_reference(path: Path, kind: str, cudnn: bool, ids: Tensor) -> Tensor:
    """The character model step by step from Keras' own formulas, gates in Keras' order."""
    import h5py

    with h5py.File(path) as file:
        found: dict[str, Tensor] = {}
        file.visititems(
            lambda name, item: (
                found.__setitem__(name, torch.tensor(item[()])) if hasattr(item, "shape") else None
            )
        )
    embedded = found["embedding/embedding/embeddings:0"][ids]
    value, parts = embedded, [embedded]
    for layer in ("rnn_1", "rnn_2"):
        kernel, recurrent, bias = (
            found[f"{layer}/{layer}/{part}:0"] for part in ("kernel", "recurrent_kernel", "bias")
        )  # fmt: skip
        units, gates = recurrent.shape[0], recurrent.shape[1] // recurrent.shape[0]
        if cudnn:
            # The reading of CuDNN's kernels that reaches 1.22 bits per character on textgenrnn's weights.
            kernel = torch.cat([part.T.T.reshape(units, -1).T for part in kernel.chunk(gates, 1)], 1)
            recurrent = torch.cat([part.T for part in recurrent.chunk(gates, 1)], 1)
            bias = bias.reshape(2, -1).sum(0)
        h, c, states = torch.zeros(len(ids), units), torch.zeros(len(ids), units), []
        for step in range(ids.shape[1]):
            x = value[:, step]
            if kind == "lstm":
                i, f, g, o = (x @ kernel + h @ recurrent + bias).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            else:
                xz, xr, xh = (x @ kernel + bias[0]).chunk(3, 1)
                hz, hr, hh = (h @ recurrent + bias[1]).chunk(3, 1)
                z, r = (xz + hz).sigmoid(), (xr + hr).sigmoid()
                h = z * h + (1 - z) * (xh + r * hh).tanh()
            states.append(h)
        value = torch.stack(states, 1)
        parts.append(value)
    joined = torch.cat(parts, 2)
    shares = torch.softmax((joined @ found["attention/attention/attention_W:0"]).squeeze(2), 1)
    return (joined * shares.unsqueeze(2)).sum(1) @ found["output/output/kernel:0"] + found[
        "output/output/bias:0"
    ]


@pytest.mark.parametrize(("kind", "cudnn"), [("lstm", False), ("lstm", True), ("gru", False)])
def test_character_models_give_what_keras_formulas_give(tmp_path: Path, kind: str, cudnn: bool) -> None:
    files = models.tiny_lstm_lm(tmp_path, kind, cudnn)
    model = models.imported(files)
    feeds, outputs = forward(model, ["The king said: water", "no"])
    close(outputs["logits"], recurrent_reference(files["char_weights.hdf5"], kind, cudnn, feeds["input_ids"]))
    assert (model.info.architecture, model.info.head) == (f"keras-{kind}", "causal_lm")


@pytest.mark.parametrize("with_norm", [False, True])
def test_a_torch_sequence_is_told_from_its_names(tmp_path: Path, with_norm: bool) -> None:
    model = models.imported(models.tiny_cnn(tmp_path, norm=with_norm))
    step = 4 if with_norm else 3
    convs: list[torch.nn.Module] = []
    for into, out in ((1, 8), (8, 16)):
        convs.append(torch.nn.Conv2d(into, out, 3, padding=1))
        if with_norm:
            convs.append(torch.nn.BatchNorm2d(out))
        convs += [torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    assert len(convs) == 2 * step
    parts = {
        "features": torch.nn.Sequential(*convs),
        "classifier": torch.nn.Sequential(torch.nn.Linear(784, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)),
    }
    net = torch.nn.ModuleDict(parts).eval()
    net.load_state_dict(torch.load(tmp_path / "digits.pth", weights_only=True))
    feeds, outputs = forward(model, list(models.items("image", 4)))
    with torch.no_grad():
        close(outputs["logits"], net["classifier"](net["features"](feeds["image"]).flatten(1)))


def test_a_sequence_whose_sizes_do_not_fit_is_refused(tmp_path: Path) -> None:
    tensors = torch.load(models.tiny_cnn(tmp_path)["digits.pth"], weights_only=True)
    tensors["classifier.0.weight"] = torch.zeros(32, 16 * 7 * 6)
    torch.save(tensors, tmp_path / "digits.pth")
    with pytest.raises(SourceError, match=r"digits\.pth has 8 tensors"):
        models.imported({"digits.pth": tmp_path / "digits.pth"})


def test_static_embeddings_are_means_of_rows(tmp_path: Path) -> None:
    model = models.imported(models.tiny_static_embedder(tmp_path))
    table = load_file(tmp_path / "model.safetensors")["embedding.weight"].float()
    feeds, outputs = forward(model, list(TEXTS))
    rows = [table[ids[mask.bool()]].mean(0) for ids, mask in zip(*list(feeds.values())[:2], strict=True)]
    close(outputs["embedding"], F.normalize(torch.stack(rows), dim=1))


def test_voice_activity_carries_its_state_over_frames(tmp_path: Path) -> None:
    model = models.imported(models.tiny_audio(tmp_path))
    t = load_file(tmp_path / "voice_16k.safetensors")
    feeds, outputs = forward(model, list(models.items("audio", 1)))
    cell, state, shares = torch.nn.LSTMCell(16, 16), None, []
    cell.load_state_dict(
        {name.removeprefix("lstm_cell."): t[name] for name in t if name.startswith("lstm_cell.")}
    )
    with torch.no_grad():
        for frame in feeds["frames"]:
            x = F.conv1d(F.pad(frame[None, None], (0, 64), "reflect"), t["stft_conv.weight"], stride=128)
            x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
            for number, stride in enumerate((1, 2, 2, 1), 1):
                x = F.conv1d(
                    x, t[f"conv{number}.weight"], t[f"conv{number}.bias"], stride=stride, padding=1
                ).relu()
            state = cell(x.squeeze(2), state)
            x = F.conv1d(state[0].relu().unsqueeze(2), t["final_conv.weight"], t["final_conv.bias"])
            shares.append(x.sigmoid().flatten())
    close(outputs["probability"].flatten(), torch.cat(shares))


def test_pitch_gives_what_torch_gives(tmp_path: Path) -> None:
    model = models.imported(models.tiny_pitch(tmp_path))
    t = torch.load(tmp_path / "pitch.pth", weights_only=True)
    feeds, outputs = forward(model, list(models.items("audio", 1)))
    x = feeds["frames"][:, None, :, None]
    for number in range(1, 7):
        x = F.pad(x, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
        x = F.conv2d(
            x, t[f"conv{number}.weight"], t[f"conv{number}.bias"], stride=(4, 1) if number == 1 else 1
        ).relu()
        b = [t[f"conv{number}_BN.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        x = F.max_pool2d(F.batch_norm(x, *b, eps=0.0010000000474974513), (2, 1), (2, 1))
    close(outputs["logits"], linear(t, "classifier", x.permute(0, 2, 1, 3).flatten(1)))
