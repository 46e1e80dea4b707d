"""Small whole files of fourteen kinds, written by Python's standard library: the items of the file-type probe.

Their content is drawn from real text (verses) and from numbers, so that no kind has one content. Bytes depend on the
versions of Python, zlib and SQLite; the suite is built once and travels as a blob.
"""

from __future__ import annotations

import bz2
import configparser
import csv
import gzip
import html
import io
import json
import lzma
import pickle  # written here, as an example of a kind; nothing in this project reads one
import plistlib
import sqlite3
import struct
import sysconfig
import tarfile
import wave
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from spore_borg.learn.suite_data import Raw, Triple

FILE_BYTES_MAX = 4_096
Make = Callable[[np.random.Generator, list[str]], bytes]


def _words(rng: np.random.Generator, lines: list[str], count: int = 4) -> list[str]:
    return [lines[int(i)] for i in rng.integers(0, len(lines), count)]


def _name(rng: np.random.Generator, lines: list[str]) -> str:
    word = "".join(c for c in _words(rng, lines, 1)[0] if c.isalpha())[:8].lower()
    return word or "file"


def _body(rng: np.random.Generator, lines: list[str]) -> bytes:
    """What an archive holds: text, or numbers."""
    if rng.random() < 0.5:
        return "\n".join(_words(rng, lines, int(rng.integers(2, 9)))).encode()
    return (
        rng.integers(0, 1 << int(rng.integers(3, 9)), int(rng.integers(200, 1_500)))
        .astype(np.uint8)
        .tobytes()
    )


def _table(rng: np.random.Generator, lines: list[str]) -> list[list[str]]:
    """A table with a header, 3 to 5 columns wide."""
    width = int(rng.integers(3, 6))
    rows = [[_name(rng, lines) for _ in range(width)]]
    for _ in range(int(rng.integers(4, 25))):
        numbers = (str(n) for n in rng.integers(-9, 99, width - 2))
        rows.append([str(rng.integers(0, 10_000)), _words(rng, lines, 1)[0][:20], *numbers])
    return rows


def _zip(rng: np.random.Generator, lines: list[str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.7 else zipfile.ZIP_STORED
    ) as file:
        for _ in range(int(rng.integers(1, 4))):
            info = zipfile.ZipInfo(
                _name(rng, lines) + str(rng.integers(0, 99)) + ".txt", (2001, 1, 1, 0, 0, 0)
            )
            file.writestr(info, _body(rng, lines)[:900])
    return out.getvalue()


def _tar(rng: np.random.Generator, lines: list[str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for _ in range(2):
            body = _body(rng, lines)[:700]
            info = tarfile.TarInfo(_name(rng, lines) + ".dat")
            info.size, info.mtime = len(body), int(rng.integers(10**9, 2 * 10**9))
            file.addfile(info, io.BytesIO(body))
    return out.getvalue()


def _json(rng: np.random.Generator, lines: list[str]) -> bytes:
    value = [
        {
            _name(rng, lines): int(rng.integers(0, 999)),
            "text": text[:60],
            "tags": _words(rng, lines, 1)[0].split()[:4],
        }
        for text in _words(rng, lines, int(rng.integers(2, 9)))
    ]
    return json.dumps(value, indent=None if rng.random() < 0.4 else 2).encode()


def _csv(rng: np.random.Generator, lines: list[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=";" if rng.random() < 0.3 else ",").writerows(_table(rng, lines))
    return out.getvalue().encode()


def _xml(rng: np.random.Generator, lines: list[str]) -> bytes:
    root = ET.Element(_name(rng, lines))
    for text in _words(rng, lines, int(rng.integers(2, 9))):
        child = ET.SubElement(root, _name(rng, lines), {"n": str(rng.integers(0, 99))})
        child.text = text[:80]
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=bool(rng.random() < 0.8)))


def _html(rng: np.random.Generator, lines: list[str]) -> bytes:
    body = "\n".join(f"<p class={_name(rng, lines)}>{html.escape(text)}</p>" for text in _words(rng, lines))
    head = f"<head><title>{html.escape(_words(rng, lines, 1)[0][:30])}</title></head>"
    start = "<!DOCTYPE html>\n" if rng.random() < 0.7 else ""
    return f"{start}<html>\n{head}\n<body><h1>{_name(rng, lines)}</h1>\n{body}\n</body></html>\n".encode()


def _wav(rng: np.random.Generator, lines: list[str]) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(int(rng.integers(1, 3)))
        file.setsampwidth(2)
        file.setframerate(int(rng.choice([8_000, 16_000, 44_100])))
        step = int(rng.integers(100, 4_000))
        samples = (np.arange(1_000) * step % 20_000 - 10_000).astype("<i2")
        file.writeframes(samples.tobytes())
    return out.getvalue()


def _png(rng: np.random.Generator, lines: list[str]) -> bytes:
    size = int(rng.integers(8, 40))
    pixels = rng.integers(0, 1 << int(rng.integers(2, 9)), (size, size)).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    made = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        made += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return made


def _sqlite(rng: np.random.Generator, lines: list[str]) -> bytes:
    base = sqlite3.connect(":memory:")
    try:
        base.execute("PRAGMA page_size = 1024")
        base.execute(f"CREATE TABLE t_{_name(rng, lines)} (id INTEGER PRIMARY KEY, body TEXT)")
        name = base.execute("SELECT name FROM sqlite_master").fetchone()[0]
        rows = [(text[:90],) for text in _words(rng, lines, 6)]
        base.executemany(f"INSERT INTO {name} (body) VALUES (?)", rows)  # noqa: S608 - letters only
        base.commit()
        return base.serialize()
    finally:
        base.close()


def _ini(rng: np.random.Generator, lines: list[str]) -> bytes:
    parser = configparser.ConfigParser(interpolation=None)
    for i in range(int(rng.integers(1, 5))):
        parser[f"{_name(rng, lines)}{i}"] = {
            f"{_name(rng, lines)}{n}": _words(rng, lines, 1)[0][:30].strip() or "x" for n in range(5)
        }
    out = io.StringIO()
    parser.write(out)
    return out.getvalue().encode()


def _pickle(rng: np.random.Generator, lines: list[str]) -> bytes:
    value = {_name(rng, lines): [text[:50], int(rng.integers(0, 99)), 0.5] for text in _words(rng, lines, 6)}
    return pickle.dumps(value, protocol=int(rng.integers(2, 6)))


def _plain(rng: np.random.Generator, lines: list[str]) -> bytes:
    return "\n".join(_words(rng, lines, int(rng.integers(2, 10)))).encode()


def _plist(rng: np.random.Generator, lines: list[str]) -> bytes:
    value = {f"{_name(rng, lines)}{i}": text[:60] for i, text in enumerate(_words(rng, lines, 5))}
    return plistlib.dumps(value, fmt=plistlib.FMT_BINARY)


MAKERS: dict[str, Make] = {
    "bz2": lambda rng, lines: bz2.compress(_body(rng, lines)),
    "csv": _csv,
    "gzip": lambda rng, lines: gzip.compress(_body(rng, lines), mtime=int(rng.integers(0, 1 << 31))),
    "html": _html,
    "ini": _ini,
    "json": _json,
    "pickle": _pickle,
    "plist": _plist,
    "png": _png,
    "sqlite": _sqlite,
    "tar": _tar,
    "text": _plain,
    "wav": _wav,
    "xml": _xml,
    "xz": lambda rng, lines: lzma.compress(_body(rng, lines)),
    "zip": _zip,
}


def _python_sources(count: int) -> list[bytes]:
    """Beginnings of the standard library's own modules, cut after a whole line."""
    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        raw = path.read_bytes()[:FILE_BYTES_MAX]
        if len(raw) > 400:
            found.append(raw[: raw.rindex(b"\n") + 1][: 600 + len(raw) % 1_800])
    return found[:count]


def file_types(lines: list[str], per_class: int, seed: int = 14) -> Raw:
    """Which kind of file the bytes are.

    Args:
        lines: texts from which content is drawn.
        per_class: files of each kind; Python sources are at most as many as the standard library has.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    classes = (*sorted([*MAKERS, "python"]),)
    rows: list[Triple] = []
    for label, kind in enumerate(classes):
        if kind == "python":
            items = _python_sources(per_class)
        else:
            items = [MAKERS[kind](rng, lines)[:FILE_BYTES_MAX] for _ in range(per_class)]
        rows.extend((f"{kind}/{i}", item, label) for i, item in enumerate(items))
    return Raw(
        "file-type", "bytes", classes, rows,
        "written by Python's standard library from verses and numbers; its own sources",
        "CC0-1.0; Python sources: PSF-2.0", made=True,
    )  # fmt: skip
