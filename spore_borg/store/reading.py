"""The text of a user's document: plain text, Markdown, HTML, PDF, source code. Reads, never runs.

Source of the limits: nothing that a person writes as one document is larger.
"""

from __future__ import annotations

import html.parser
import os
from collections.abc import Iterator
from pathlib import Path

from spore_borg.errors import NotFound, UsageError

DOCUMENT_BYTES_MAX = 32 << 20
DOCUMENTS_MAX = 20_000
_TEXT = (
    ".txt .text .md .markdown .rst .org .adoc .tex .csv .tsv .json .ndjson .yaml .yml .toml .ini .cfg .log .xml "
    ".py .js .ts .c .h .cc .cpp .hpp .rs .go .java .kt .rb .sh .sql .css .lua .pl .r .jl .swift"
)
TEXT = frozenset(_TEXT.split())
HTML = frozenset((".html", ".htm", ".xhtml"))
PDF = frozenset((".pdf",))
_SILENT = frozenset(("script", "style", "head", "template", "noscript"))
_PARTS = "p div br li tr h1 h2 h3 h4 h5 h6 section article table ul ol pre blockquote"
_BLOCKS = frozenset(_PARTS.split())


def documents(path: Path) -> Iterator[Path]:
    """The readable files at or below a path, in order of their names; hidden ones and links are passed over.

    Raises:
        NotFound: there is nothing at the path. UsageError: there is too much.
    """
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise NotFound(
            what="file or directory", name=str(path), hint="Give a document or a directory of some."
        )
    count = 0
    for directory, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            file = Path(directory, name)
            if name.startswith(".") or file.suffix.lower() not in TEXT | HTML | PDF or file.is_symlink():
                continue
            count += 1
            if count > DOCUMENTS_MAX:
                raise UsageError(
                    detail=f"{path} holds more than {DOCUMENTS_MAX} documents; give a part of it."
                )
            yield file


def text_of(path: Path) -> str:
    """The text of one document.

    Raises:
        UsageError: it is too large, no text, or a PDF and the reader for those is not installed.
    """
    size = path.stat().st_size
    if size > DOCUMENT_BYTES_MAX:
        raise UsageError(
            detail=f"{path.name} has {size >> 20} MiB; at most {DOCUMENT_BYTES_MAX >> 20} are read."
        )
    if path.suffix.lower() in PDF:
        return _pdf(path)
    raw = path.read_bytes()
    if b"\0" in raw[:4096]:
        raise UsageError(detail=f"{path.name} is no text. `borg classify` can tell what it is.")
    text = raw.decode("utf-8", errors="replace")
    return _html(text) if path.suffix.lower() in HTML else text


def modality_of(path: Path) -> str:
    """What a file most likely is for, by its first bytes: image, audio or bytes."""
    with path.open("rb") as file:
        head = file.read(16)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "audio"
    pictures = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
    if head.startswith(pictures) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    return "bytes"


def _pdf(path: Path) -> str:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PdfReadError
    except ImportError as error:
        raise UsageError(
            detail=f"{path.name} is a PDF; reading those needs an extra: pip install 'spore-borg[pdf]'."
        ) from error
    try:
        return "\n\n".join(page.extract_text() for page in PdfReader(path).pages)
    except (PdfReadError, ValueError, KeyError, RecursionError) as error:
        raise UsageError(detail=f"{path.name} cannot be read as a PDF: {error}") from error


class _Text(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in _SILENT
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in _SILENT and self._silent > 0
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


def _html(text: str) -> str:
    parser = _Text()
    parser.feed(text)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).splitlines())
    return "\n".join(line for line in lines if line)
