"""A picture of ours as PNG, for those who show no SVG: chats that preview a link, and papers."""

from __future__ import annotations

from functools import cache

from spore_borg.errors import EXIT_NOT_ALLOWED, BorgError

WIDTH, HEIGHT = 1_200, 630  # pixels: what chats ask of a preview
_LETTER = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><text y="16" font-size="16" '
    "font-family=\"system-ui, 'DejaVu Sans', sans-serif\">{}</text></svg>"
)


class NoPicture(BorgError):
    """A PNG cannot be made here: {detail} SVG works: /plot.svg, or `borg plot -o x.svg`."""

    exit_code = EXIT_NOT_ALLOWED


@cache
def _fonts() -> bool:
    """Whether this system has a font that draws a letter."""
    from resvg_py import svg_to_bytes

    return bytes(svg_to_bytes(svg_string=_LETTER.format("M"))) != bytes(
        svg_to_bytes(svg_string=_LETTER.format(""))
    )


def png(svg: str, width: int = WIDTH) -> bytes:
    """An SVG of ours as PNG bytes, ``width`` pixels wide.

    Raises:
        NoPicture: the library is not installed for this system, or no font is.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise NoPicture(detail=f"the library resvg-py is not there ({error}).") from error
    if not _fonts():
        raise NoPicture(detail="this system has no font; install one, such as DejaVu Sans (fonts-dejavu).")
    return bytes(svg_to_bytes(svg_string=svg, width=width, sans_serif_family="DejaVu Sans"))
