"""A user's text as documents: which files count, and what is refused. Standard library only.

Spec of nothing: what a dataset holds is fixed by its digest, and only the node that builds one reads files.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT_CHARACTERS = 2_048  # paragraphs of one file are joined up to about this length
TEXT_BYTES_MAX = 64 << 20  # all files of one text together
SUFFIXES = (".txt", ".md")  # of a directory's files that are read
# What no text has: controls other than tab, line feed, form feed, carriage return and escape.
_BINARY = re.compile("[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


class DataError(ValueError):
    """Text or a dataset file that cannot be used; the message says what would help."""


def text_files(path: Path) -> list[Path]:
    """The file itself, or every ``*.txt`` and ``*.md`` below a directory, in order of names.

    Hidden files and links are left out: nobody who names a directory means to publish them.

    Raises:
        DataError: there is none, or they are too large together.
    """
    if path.is_dir():
        files = sorted(
            file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and _plain(file, path)
        )
    else:
        files = [path]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"no text in {path}: give a text file, or a directory with .txt or .md files")
    if sum(file.stat().st_size for file in files) > TEXT_BYTES_MAX:
        raise DataError(f"{path} holds more than {TEXT_BYTES_MAX >> 20} MiB of text; give fewer files")
    return files


def _plain(file: Path, root: Path) -> bool:
    """Whether a file lies in plain sight below a directory: no link and nothing hidden on the way."""
    parts = file.relative_to(root).parts
    on_the_way = [root.joinpath(*parts[: number + 1]) for number in range(len(parts))]
    hidden = any(part.startswith(".") for part in parts)
    return not hidden and file.is_file() and not any(step.is_symlink() for step in on_the_way)


def read_text(file: Path) -> str:
    """The text of one file, line ends as ``\\n``. Raises DataError for what is no UTF-8 text."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error.reason}; convert it or leave it out") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    found = _BINARY.search(text)
    if found is not None:
        raise DataError(f"{file} is no text: it holds the byte {ord(found[0]):#04x}; leave it out")
    return text


def file_documents(path: Path) -> list[str]:
    """Paragraphs of the files of a text, several to a document, long ones cut. Raises DataError."""
    documents: list[str] = []
    for file in text_files(path):
        current = ""
        for paragraph in re.split(r"\n\s*\n", read_text(file)):
            for start in range(0, len(paragraph), DOCUMENT_CHARACTERS):
                between = "\n\n" if current and start == 0 else ""
                current += between + paragraph[start : start + DOCUMENT_CHARACTERS]
                if len(current) >= DOCUMENT_CHARACTERS:
                    documents.append(current)
                    current = ""
        if current.strip():
            documents.append(current)
    return documents
