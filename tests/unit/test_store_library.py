from __future__ import annotations

import random

import pytest

from spore_borg.errors import IntegrityError, NotFound, UsageError
from spore_borg.store import library, reading
from spore_borg.store.library import Library, passages


def test_passages_cover_the_text_and_overlap():
    words = random.Random(3)
    text = " ".join("".join(words.choices("abcdefg", k=words.randint(1, 9))) for _ in range(900)) + "."
    found = passages(text)
    assert all(len(piece) <= library.PASSAGE_CHARS for _, piece in found)
    assert all(text[start : start + len(piece)] == piece for start, piece in found)
    ends = [start + len(piece) for start, piece in found]
    assert all(start < end for (start, _), end in zip(found[1:], ends, strict=False))
    assert ends[-1] == len(text)


@pytest.mark.parametrize("text", ["", "   \n ", "x", "x" * 5_000])
def test_passages_of_odd_texts(text):
    found = passages(text)
    assert "".join(text.split()) in "".join(piece for _, piece in found) or len(text) > 600
    assert bool(found) == bool(text.strip())


def test_a_document_is_taken_once_and_replaced_whole(tmp_path):
    with Library(tmp_path / "library.sqlite") as shelf:
        assert shelf.put("/a.txt", "The heron stands in the reeds.")
        assert not shelf.put("/a.txt", "The heron stands in the reeds.")
        assert shelf.put("/a.txt", "The kingfisher dives.")
        assert shelf.counts() == (1, 1)
        assert shelf.search("heron", {}) == []
        assert shelf.search("Where does the kingfisher dive?", {})[0].path == "/a.txt"


def test_meaning_and_words_are_joined(tmp_path):
    with Library(tmp_path / "library.sqlite") as shelf:
        for name, text in (("a", "An apple a day."), ("b", "A boat on the lake."), ("c", "A cat sleeps.")):
            shelf.put(f"/{name}", text)
        rows = shelf.without_vector("m", 10)
        assert len(rows) == 3
        axes = {"apple": [2.0, 0, 0], "boat": [0, 3.0, 0], "cat": [0, 0, 1.0]}
        shelf.put_vectors("m", [(n, next(v for k, v in axes.items() if k in text)) for n, text in rows])
        assert shelf.without_vector("m", 10) == []
        hits = shelf.search("ship", {"m": [0.1, 1.0, 0.0], "absent": [1.0]}, count=2)
        assert hits[0].path == "/b"
        assert hits[0].ranks == {"m": 1}
        assert shelf.search("boat", {"m": [0.0, 1.0, 0.0]})[0].ranks == {"words": 1, "m": 1}


def test_forgetting_a_directory_leaves_its_neighbour(tmp_path):
    with Library(tmp_path / "library.sqlite") as shelf:
        for name in ("/docs/a", "/docs/b", "/docs2/c"):
            shelf.put(name, f"text of {name}")
        assert shelf.forget("/docs") == 2
        assert shelf.counts() == (1, 1)


@pytest.mark.parametrize("question", ['"', "NEAR(a b)", "a AND", "*", "\0", "'; DROP TABLE passage"])
def test_no_question_is_a_syntax_error(tmp_path, question):
    with Library(tmp_path / "library.sqlite") as shelf:
        shelf.put("/a", "drop table near")
        shelf.search(question, {})


def test_a_damaged_library_is_told(tmp_path):
    path = tmp_path / "library.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(IntegrityError, match="ingest again"):
        Library(path)


def test_html_loses_its_tags_and_scripts(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<html><head><title>t</title></head><body><p>One&amp;two</p><script>evil()</script>three")
    assert reading.text_of(page) == "One&two\nthree"


def test_what_is_no_text_is_refused(tmp_path):
    blob = tmp_path / "a.txt"
    blob.write_bytes(b"\x7fELF\0\0")
    with pytest.raises(UsageError, match="no text"):
        reading.text_of(blob)
    damaged = tmp_path / "a.pdf"
    damaged.write_bytes(b"%PDF-1.4 nothing")
    with pytest.raises(UsageError, match="PDF"):
        reading.text_of(damaged)
    with pytest.raises(NotFound):
        list(reading.documents(tmp_path / "absent"))


def test_documents_are_found_without_hidden_ones(tmp_path):
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.txt").write_text("x")
    (tmp_path / "b.md").write_text("x")
    (tmp_path / "c.exe").write_bytes(b"x")
    assert [path.name for path in reading.documents(tmp_path)] == ["b.md"]


def test_what_a_file_is_for_is_read_from_its_first_bytes(tmp_path):
    heads = {"image": b"\x89PNG\r\n", "audio": b"RIFF\0\0\0\0WAVE", "bytes": b"#!/bin/sh"}
    for modality, head in heads.items():
        (tmp_path / modality).write_bytes(head)
        assert reading.modality_of(tmp_path / modality) == modality
