"""How values read on a page: units, short ids, signs, and text of strangers made safe to look at."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime

from explorer.values import Frame

CID_RE = re.compile(r"b[a-z2-7]{58}")
NODE_RE = re.compile(r"[a-z2-7]{52}")
SIGNATURE_RE = re.compile(r"[0-9a-f]{12}")
CHAPTER_RE = re.compile(r"[0-9]{2}-[a-z0-9-]{1,40}")
DIGEST_RE = re.compile(r"[0-9a-f]{64}")
NBITS = 1_000_000_000  # nano-units in one unit of a metric
TRUST = 1 << 20  # trust and ledger amounts are in 2^-20
NONE = "–"
VALUE_CHARS = 48  # of one recipe value inside a line
MINUS = "−"
_SCALES = ((10**18, "E"), (10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))
_OPTIONAL_S = re.compile(r"\b(\d{1,9})((?: [a-z]{1,20})? [a-z]{1,20})\(s\)")
_ONE_OF_MANY = re.compile(r"(?<![\d.,])1 (block|epoch|experiment|node|record|round|run|segment|step)s\b")

OUTCOMES = ("kept", "discarded", "crashed")
VERDICTS = ("confirmed", "refuted", "inconclusive", "unverified")


def metric(value: int | None, digits: int = 5) -> str:
    """A metric in nano-units, as its unit: 2271543210 → 2.27154."""
    if value is None:
        return NONE
    return f"{value / NBITS:.{digits}f}".replace("-", MINUS)


def gain(value: int | None, digits: int = 5) -> str:
    """A gain in nano-units with its sign; positive is better whatever the task's direction."""
    if value is None:
        return NONE
    return f"{value / NBITS:+.{digits}f}".replace("-", MINUS)


def gain_short(value: int | None) -> str:
    """A gain in nano-units with its sign and three digits that count: 2053690000 → +2.05, −1230000 → −0.00123."""
    if not value:
        return NONE if value is None else "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value) / NBITS)))
    return f"{value / NBITS:+,.{min(9, digits)}f}".replace("-", MINUS)


def trust(value: int | None, digits: int = 2) -> str:
    """Trust in 2^-20 as a decimal."""
    return NONE if value is None else f"{value / TRUST:,.{digits}f}".replace("-", MINUS)


def amount(value: int, digits: int = 3) -> str:
    """A ledger amount in 2^-20, with its sign."""
    return f"{value / TRUST:+,.{digits}f}".replace("-", MINUS)


def count(value: int | None) -> str:
    """A whole number with thousands marked."""
    return NONE if value is None else f"{value:,}".replace("-", MINUS)


def percent_ppm(value: int) -> str:
    """Parts per million as per cent."""
    return f"{value / 10_000:.1f} %"


def unit_ppm(value: int | None) -> str:
    """Parts per million as a number between 0 and 1."""
    return NONE if value is None else f"{value / 1_000_000:.2f}".replace("-", MINUS)


def fidelity(infidelity: int, digits: int = 4) -> str:
    """One minus nano-(1 − cosine), as titles and ``borg state`` round it; but only what is exact shows as 1."""
    scale = 10 ** (9 - digits)
    return metric(NBITS - scale if 0 < infidelity < scale // 2 + 1 else NBITS - infidelity, digits)


def scaled(value: int | float | None, unit: str = "") -> str:
    """A large number with a decimal prefix: 400000000000 → 400 G."""
    if value is None:
        return NONE
    for size, prefix in _SCALES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def cost(value: int | None, unit: str) -> str:
    """What a run may spend or has spent: FLOP with a decimal prefix, characters counted."""
    if value is None or unit == "FLOP":
        return scaled(value, unit)
    return plural(value, unit)


def size(value: int) -> str:
    """Bytes for people."""
    return f"{value:,} B" if value < 10_000 else f"{value / 1024:,.1f} KiB"


def duration_ms(value: int | None) -> str:
    """Milliseconds for people."""
    if value is None:
        return NONE
    seconds = value / 1000
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def age(seconds: int) -> str:
    """How long ago, in one unit: now, 40 s ago, 3 min ago, 5 h ago, 2 days ago."""
    if seconds <= 0:
        return "now"
    if seconds < 100:
        return f"{seconds} s ago"
    for size, unit, most in ((60, "min", 100), (3_600, "h", 48)):
        if seconds < size * most:
            return f"{seconds // size} {unit} ago"
    return f"{seconds // 86_400:,} days ago"


def ago(epoch: int | None, at: Frame) -> str:
    """How long before the newest epoch here an epoch was; in epochs where their length is not known."""
    if epoch is None or at.epoch is None:
        return NONE if epoch is None else f"epoch {count(epoch)}"
    passed = max(0, at.epoch - epoch)
    if at.epoch_ms is None:
        return f"{plural(passed, 'epoch')} ago" if passed else "now"
    return age(passed * at.epoch_ms // 1_000)


def moment(epoch: int | None, at: Frame) -> str:
    """When an epoch began by the mesh's clock, such as ``2026-03-01 12:00:15Z``; empty if that is not known."""
    if epoch is None or at.epoch_ms is None or at.time_ms is None:
        return ""
    seconds = (at.time_ms + epoch * at.epoch_ms) // 1_000
    if not 0 <= seconds < 1 << 36:
        return ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"


def short(text: str | None) -> str:
    """An id short enough for a table: the last ten characters of a CID (its first ones are all alike), the
    first eight of a node's name.
    """
    if not text:
        return NONE
    return f"…{text[-10:]}" if text.startswith("baf") and len(text) == 59 else text[:8]


def plain(text: str | None, limit: int = 300) -> str:
    """Text of a stranger as one harmless line: no control or direction-changing characters, bounded length."""
    if not text:
        return ""
    kept = "".join(" " if unicodedata.category(c) in {"Cc", "Zl", "Zp"} else c for c in text[: limit * 2])
    kept = "".join(c for c in kept if unicodedata.category(c) not in {"Cf", "Cs", "Co"})
    kept = " ".join(kept.split())
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def sentence(text: str | None, limit: int = 300) -> str:
    """As :func:`plain`, with the number of its nouns: 2 node(s) → 2 nodes, 1 segments → 1 segment."""
    found = _OPTIONAL_S.sub(lambda m: f"{m[1]}{m[2]}{'' if m[1] == '1' else 's'}", plain(text, limit))
    return _ONE_OF_MANY.sub(r"1 \1", found)


def xml(text: str | None, limit: int = 300) -> str:
    """As :func:`plain`, and without the few characters that XML has no way to write."""
    return plain("".join(c for c in text or "" if c not in "\ufffe\uffff"), limit)


def plural(number: int, noun: str) -> str:
    """A number with its noun: 1 step, 2 steps."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def is_cid(text: str) -> bool:
    """Whether the text has the form of a record's id."""
    return CID_RE.fullmatch(text) is not None


def is_node(text: str) -> bool:
    """Whether the text has the form of a node's name."""
    return NODE_RE.fullmatch(text) is not None


def is_signature(text: str) -> bool:
    """Whether the text has the form of a failure's signature."""
    return SIGNATURE_RE.fullmatch(text) is not None


def is_chapter(text: str) -> bool:
    """Whether the text has the form of a chapter's name, such as ``10-records``."""
    return CHAPTER_RE.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether the text has the form of a state's digest: 64 hex digits."""
    return DIGEST_RE.fullmatch(text) is not None


def _recipe_show() -> Callable[[str, int | bool | str], str] | None:
    """The recipe module's own way to show a field, if this installation has it."""
    try:
        from workspace.recipe import show as found
    except ImportError:  # an installation that only reads
        return None
    return found


def recipe_value(field: str, value: object) -> str:
    """One recipe value as text; the recipe's own scale (such as 1e-6) where this installation knows the field."""
    if value is None:
        return NONE
    shower = _recipe_show()
    if shower is not None and isinstance(value, int | str):
        try:
            return plain(str(shower(field, value)))
        except (KeyError, ValueError, TypeError, ArithmeticError):
            pass  # a field or value of another version, or of a stranger: show it as it is
    if isinstance(value, int) and not isinstance(value, bool):
        return count(value)
    return plain(str(value))


def changed(items: object, limit: int = 4) -> str:
    """A recipe diff as one line with each field's own scale."""
    if not isinstance(items, list | tuple):
        return ""
    parts = []
    for item in items:
        if isinstance(item, list | tuple) and len(item) == 3:
            name = plain(str(item[0]), 40)
            before, after = (plain(recipe_value(name, value), VALUE_CHARS) for value in item[1:])
            parts.append(f"{name} {before} → {after}")
    more = len(parts) - limit
    return ", ".join(parts[:limit]) + (f" and {more} more" if more > 0 else "")
