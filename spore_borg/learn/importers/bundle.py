"""The files of one source, seen by importers: looked at by content, read once, never executed."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spore_borg.learn import formats
from spore_borg.learn.errors import LearnError, SourceError
from spore_borg.learn.graph import Graph, Info, Model, Weights
from spore_borg.learn.importers.views import Joined

JSON_BYTES_MAX = 64 << 20
ASSET_BYTES_MAX = 64 << 20
# In order of preference where a directory has the same weights several times.
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".h5", ".hdf5", ".keras")
# Files that stand beside weights and are none.
NO_WEIGHTS = (
    "training_args.bin",
    "optimizer.bin",
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "rng_state.pth",
)


class Bundle:
    """Files by the name that the source gives them, with ``/`` between directories."""

    def __init__(self, files: Mapping[str, Path], *, origin: str, licence: str, name: str) -> None:
        self.files = {key.replace("\\", "/"): Path(path) for key, path in sorted(files.items())}
        self.origin = origin
        self.licence = licence
        self.name = name
        self.notes: list[str] = []
        self._json: dict[str, Any] = {}
        self._weights: dict[str, Weights] = {}

    def named(self, *endings: str) -> Iterator[str]:
        """Names of files whose last part is, or ends with, one of these; those nearest to the root first."""
        order = sorted(self.files, key=lambda name: (name.count("/"), name))
        for name in order:
            last = posixpath.basename(name)
            if any(last == end or (end.startswith(".") and last.endswith(end)) for end in endings):
                yield name

    def beside(self, name: str, other: str) -> str | None:
        """The file ``other`` in the directory of ``name``, if there is one."""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), other))
        return path if path in self.files else None

    def read(self, name: str) -> bytes:
        """A small file as bytes. Raises SourceError if it is too large or cannot be read."""
        try:
            size = self.files[name].stat().st_size
            if size > ASSET_BYTES_MAX:
                raise SourceError(
                    f"{name} has {size >> 20} MiB; at most {ASSET_BYTES_MAX >> 20} are read as one piece."
                )
            return self.files[name].read_bytes()
        except OSError as error:
            raise SourceError(f"{name} cannot be read: {error.strerror}.") from error

    def json(self, name: str) -> Any:
        """A JSON file's value. Raises SourceError if it is none."""
        if name not in self._json:
            try:
                self._json[name] = json.loads(self.read(name))
            except (ValueError, RecursionError) as error:
                raise SourceError(f"{name} is no JSON: {str(error)[:120]}") from error
        return self._json[name]

    def config(self, name: str | None) -> dict[str, Any]:
        """A JSON file that holds a map; empty if there is none, or it holds something else."""
        if name is None:
            return {}
        value = self.json(name)
        return value if isinstance(value, dict) else {}

    def weight_files(self) -> list[str]:
        """Names of files that look like weights, nearest to the root and best format first, then smallest."""
        found = [name for name in self.named(*WEIGHT_SUFFIXES) if posixpath.basename(name) not in NO_WEIGHTS]

        def order(name: str) -> tuple[int, int, int, str]:
            suffix = posixpath.splitext(name)[1]
            return (name.count("/"), WEIGHT_SUFFIXES.index(suffix), self.files[name].stat().st_size, name)

        return sorted(found, key=order)

    def weights(self, name: str) -> Weights:
        """The tensors of a file, opened lazily. Raises SourceError."""
        if name not in self._weights:
            self._weights[name] = formats.open_weights(self.files[name])
        return self._weights[name]

    def opened(self) -> Iterator[tuple[str, Weights]]:
        """All files of weights that can be opened; why others cannot is kept in ``notes``."""
        for name in self.weight_files():
            try:
                yield name, self.weights(name)
            except LearnError as error:
                note = f"{name}: {error}"
                if note not in self.notes:
                    self.notes.append(note)

    def weights_beside(self, name: str) -> Weights:
        """The weights in the directory of a configuration; a checkpoint of several files as one.

        Raises:
            SourceError: there are none that can be read; the sentence says why.
        """
        folder = posixpath.dirname(name)
        here = [file for file in self.weight_files() if posixpath.dirname(file) == folder]
        for suffix in WEIGHT_SUFFIXES:
            same = [file for file in here if file.endswith(suffix)]
            index = next(
                (file for file in self.named(".index.json") if posixpath.dirname(file) == folder), None
            )
            if index is not None and same:
                parts = sorted(set(self.config(index).get("weight_map", {}).values()))
                whole = [self.beside(index, str(part)) for part in parts]
                if parts and all(part in same for part in whole):
                    return Joined([self.weights(str(part)) for part in whole])
            if same:
                return self.weights(same[0])
        raise SourceError(
            f"Beside {name} there is no file of weights ({' '.join(WEIGHT_SUFFIXES)}); name the directory that has one."
        )

    def model(
        self,
        graph: Graph,
        weights: Weights,
        adapter: Mapping[str, Any],
        assets: Mapping[str, bytes],
        *,
        head: str,
        modality: str,
        architecture: str,
        params_count: int | None = None,
    ) -> Model:
        """The finished model; numbers in weights are counted once per tensor that the graph uses."""
        if params_count is None:
            params_count = count_params(graph, weights)
        info = Info(self.name, self.origin, self.licence, head, modality, architecture, params_count)
        return Model(graph, weights, {**adapter, "head": head, "modality": modality}, dict(assets), info)


def count_params(graph: Graph, weights: Weights) -> int:
    """Numbers in all weights that a graph uses; the graph's own constants (axes, shapes) are none."""
    total = 0
    for name in graph.weight_names():
        if name.startswith("constant."):
            continue
        size = 1
        for side in weights.shape(name):
            size *= side
        total += size
    return total
