"""A text as a user might have one: several files in a directory, and some that nobody means to publish."""

from __future__ import annotations

from pathlib import Path

from workspace import data

SECRET = "This line stands in a hidden file."


def write(room: Path, size_bytes: int = 700_000) -> Path:
    """Fill a directory with text files of this size together; returns it."""
    (room / "part").mkdir(parents=True)
    chapters = data.bible_documents(range(1, 40))
    files = [room / "a.txt", room / "b.md", room / "part" / "c.TXT"]
    for number, file in enumerate(files):
        text, most = "", size_bytes // len(files)
        for chapter in chapters[number :: len(files)]:
            if len(text) + len(chapter) > most:
                break
            text += chapter + "\n\n"
        file.write_text(text, encoding="utf-8")
    (room / ".notes.txt").write_text(SECRET, encoding="utf-8")
    (room / "data.csv").write_text("no,text", encoding="utf-8")
    return room
