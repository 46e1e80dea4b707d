"""What the commands that ask absorbed models share: items from the command line, and who answered."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spore_borg.cli import frame as cli
from spore_borg.errors import UsageError

Item = dict[str, str]
STDIN_LINES_MAX = 10_000
# A text that ends so is most likely a mistyped name. No ending is here that a SMILES may have.
FILES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".wav", ".pdf", ".txt", ".md", ".html", ".json")


def items_of(words: Sequence[str]) -> list[Item]:
    """Texts or files from arguments; lines of stdin where there are none. Raises UsageError without any."""
    if words:
        for word in words:
            if word.lower().endswith(FILES) and not _is_file(word) and not any(map(str.isspace, word)):
                cli.note(f"{cli.one_line(word)} is no file here, so it is taken as a text.")
        return [{"path": str(Path(word).absolute())} if _is_file(word) else {"text": word} for word in words]
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(detail="Give a text or a file, or pipe lines of text in.")
    try:
        lines = [line.rstrip("\n") for line, _ in zip(sys.stdin, range(STDIN_LINES_MAX), strict=False)]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(detail=f"stdin cannot be read as text: {error}. Give a text or a file.") from error
    found = [{"text": line} for line in lines if line.strip()]
    if not found:
        raise UsageError(
            detail="There was no text on stdin. Give a text or a file, or pipe lines of text in."
        )
    return found


def _is_file(word: str) -> bool:
    try:
        return len(word) < 4_096 and Path(word).is_file()
    except (OSError, ValueError):
        return False


def modality_of(items: Sequence[Item], given: str | None) -> str:
    """The modality that all items have. Raises UsageError where they differ."""
    from spore_borg.store import reading, voices

    if given is not None:
        return given
    kinds = {
        reading.modality_of(Path(item["path"])) if "path" in item else voices.modality_of_text(item["text"])
        for item in items
    }
    if len(kinds) > 1:
        if kinds == {"text", "smiles"}:
            return "text"
        raise UsageError(
            detail=f"The items are of different kinds ({', '.join(sorted(kinds))}); ask once for each."
        )
    return kinds.pop()


def label(item: Item) -> str:
    """What a table shows of an item."""
    text = Path(item["path"]).name if "path" in item else item["text"]
    return cli.one_line(text if len(text) <= 40 else text[:39] + "…")


def spoke(models: Sequence[dict[str, Any]]) -> str:
    """Who answered, with what share of the weight, in one line."""
    parts = []
    for model in models:
        word = "" if model.get("confirmed") else ", unverified by others"
        parts.append(f"{cli.one_line(str(model['name']))} {model['weight']:.0%}{word}")
    return "; ".join(parts)
