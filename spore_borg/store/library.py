"""The user's own documents, in passages, with their vectors: what ``borg ask`` looks things up in.

``library.sqlite`` lies in the node's directory and never leaves it: no record and no page of the mesh tells of it.
A passage is found by its words (FTS5, BM25) and by its meaning (cosine to the question's embedding, one vector per
absorbed embedder); the rankings are joined by reciprocal rank fusion.
Source: Cormack, Clarke, Büttcher, Reciprocal Rank Fusion, SIGIR 2009.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spore_borg.errors import IntegrityError

PASSAGE_CHARS = 600
OVERLAP_CHARS = 100
FUSION = 60  # the constant of reciprocal rank fusion
CANDIDATES = 50  # of each ranking
BUSY_TIMEOUT_S = 10.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS document (
  id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, chars INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS passage (
  id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES document(id) ON DELETE CASCADE,
  start INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS passage_document ON passage(document);
CREATE TABLE IF NOT EXISTS vector (
  model TEXT NOT NULL, passage INTEGER NOT NULL REFERENCES passage(id) ON DELETE CASCADE,
  data BLOB NOT NULL, PRIMARY KEY (model, passage)) WITHOUT ROWID;
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, content='passage', content_rowid='id');
CREATE TRIGGER IF NOT EXISTS passage_in AFTER INSERT ON passage BEGIN
  INSERT INTO words(rowid, text) VALUES (new.id, new.text); END;
CREATE TRIGGER IF NOT EXISTS passage_out AFTER DELETE ON passage BEGIN
  INSERT INTO words(words, rowid, text) VALUES ('delete', old.id, old.text); END;
"""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that answers.

    Attributes:
        score: sum of reciprocal ranks; only good to compare within one answer.
        ranks: by ranking (``words``, or a model's id) the place in it, from 1.
    """

    path: str
    start: int
    text: str
    score: float
    ranks: Mapping[str, int]


def digest_of(text: str) -> str:
    """sha256 of a document's text, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def passages(text: str, size: int = PASSAGE_CHARS, overlap: int = OVERLAP_CHARS) -> list[tuple[int, str]]:
    """(start, text) of overlapping passages of about ``size`` characters, cut between sentences or words."""
    found: list[tuple[int, str]] = []
    start = 0
    while start < len(text):
        end = min(len(text), start + size)
        if end < len(text):
            end = _cut(text, start, end)
        piece = text[start:end]
        if piece.strip():
            found.append((start + len(piece) - len(piece.lstrip()), piece.strip()))
        if end >= len(text):
            break
        start = max(start + 1, end - overlap)
        while start < end and not text[start - 1].isspace():
            start += 1
    return found


def _cut(text: str, start: int, end: int) -> int:
    """Where to end: after the last paragraph, else sentence, else word of the second half."""
    half = start + (end - start) // 2
    for mark in ("\n\n", "\n", ". ", " "):
        at = text.rfind(mark, half, end)
        if at > half:
            return at + len(mark)
    return end


class Library:
    """The documents of one node's user; a context manager.

    Raises:
        IntegrityError: the file is no library.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise IntegrityError(
                what=f"The library {path.name}", detail=str(error), hint="Move it away and ingest again."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def counts(self) -> tuple[int, int]:
        """Numbers of documents and of passages."""
        sql = "SELECT (SELECT count(*) FROM document), (SELECT count(*) FROM passage)"
        documents, pieces = self._db.execute(sql).fetchone()
        return int(documents), int(pieces)

    def put(self, path: str, text: str) -> bool:
        """Take a document, or its new text; False if it is here already. All of it, or nothing, on the disk."""
        digest = digest_of(text)
        known = self._db.execute("SELECT digest FROM document WHERE path = ?", (path,)).fetchone()
        if known is not None and known[0] == digest:
            return False
        with self._all_or_nothing():
            self._db.execute("DELETE FROM document WHERE path = ?", (path,))
            made = self._db.execute(
                "INSERT INTO document(path, digest, chars) VALUES (?, ?, ?)", (path, digest, len(text))
            )
            rows = [(made.lastrowid, start, piece) for start, piece in passages(text)]
            self._db.executemany("INSERT INTO passage(document, start, text) VALUES (?, ?, ?)", rows)
        return True

    def forget(self, path: str) -> int:
        """Remove a document, or all below a directory; their number."""
        prefix = path.rstrip("/") + "/"
        sql = "DELETE FROM document WHERE path = ? OR substr(path, 1, ?) = ?"
        return int(self._db.execute(sql, (path, len(prefix), prefix)).rowcount)

    def without_vector(self, model: str, count: int) -> list[tuple[int, str]]:
        """(id, text) of passages that have no vector of this model yet."""
        sql = (
            "SELECT id, text FROM passage WHERE NOT EXISTS "
            "(SELECT 1 FROM vector WHERE model = ? AND passage = passage.id) ORDER BY id LIMIT ?"
        )
        return [(int(number), str(text)) for number, text in self._db.execute(sql, (model, count))]

    def put_vectors(self, model: str, rows: Iterable[tuple[int, Sequence[float]]]) -> None:
        """Store vectors, scaled to length one, as float16."""
        packed = [(model, number, _unit(np.asarray(vector, np.float32)).tobytes()) for number, vector in rows]
        with self._all_or_nothing():
            self._db.executemany(
                "INSERT OR REPLACE INTO vector(model, passage, data) VALUES (?, ?, ?)", packed
            )

    def search(self, question: str, vectors: Mapping[str, Sequence[float]], count: int = 5) -> list[Hit]:
        """The passages that fit best.

        Args:
            vectors: by model the question's embedding; models without stored vectors do no harm.
        """
        rankings = {"words": self._by_words(question)}
        for model, vector in vectors.items():
            rankings[model] = self._by_meaning(model, np.asarray(vector, np.float32))
        scores: dict[int, float] = {}
        ranks: dict[int, dict[str, int]] = {}
        for name, ranking in rankings.items():
            for rank, number in enumerate(ranking, 1):
                scores[number] = scores.get(number, 0.0) + 1.0 / (FUSION + rank)
                ranks.setdefault(number, {})[name] = rank
        best = sorted(scores, key=lambda number: (-scores[number], number))[:count]
        return [self._hit(number, scores[number], ranks[number]) for number in best]

    def _by_words(self, question: str) -> list[int]:
        terms = ['"' + word + '"' for word in re.findall(r"\w+", question.lower()) if len(word) > 2]
        if not terms:
            return []
        sql = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
        return [int(row[0]) for row in self._db.execute(sql, (" OR ".join(terms), CANDIDATES))]

    def _by_meaning(self, model: str, vector: NDArray[np.float32]) -> list[int]:
        rows = self._db.execute("SELECT passage, data FROM vector WHERE model = ?", (model,)).fetchall()
        usable = [(number, data) for number, data in rows if len(data) == 2 * len(vector)]
        if not usable:
            return []
        matrix = np.frombuffer(b"".join(data for _, data in usable), np.float16).reshape(len(usable), -1)
        cosine = matrix.astype(np.float32) @ _unit(vector).astype(np.float32)
        order = np.argsort(-cosine, kind="stable")[:CANDIDATES]
        return [int(usable[at][0]) for at in order]

    def _hit(self, number: int, score: float, ranks: Mapping[str, int]) -> Hit:
        sql = "SELECT path, start, text FROM passage JOIN document ON document.id = document WHERE passage.id = ?"
        path, start, text = self._db.execute(sql, (number,)).fetchone()
        return Hit(path, start, text, score, ranks)

    def _all_or_nothing(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float16]:
    length = float(np.sqrt(np.sum(np.square(vector, dtype=np.float64))))
    scaled = vector / length if length > 0 else vector
    return np.asarray(scaled, np.float16)
