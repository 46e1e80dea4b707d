"""Page values to HTML. Everything is escaped; a stranger's text never becomes a link, a tag or an address."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from explorer import markdown, png, show, svg
from explorer.pages.common import Running
from explorer.pages.picture import PlotPage
from explorer.pages.plot import Plot
from explorer.values import Page

NAV = (
    ("o", "/", "Overview", "overview"),
    ("f", "/frontier", "Frontier", "frontier"),
    ("r", "/records", "Records", "records"),
    ("d", "/dag", "Graph", "dag"),
    ("s", "/state", "State", "state"),
    ("v", "/verify", "Verify", "verify"),
    ("n", "/reputation", "Reputation", "reputation"),
    ("x", "/failures", "Failures", "failures"),
    ("m", "/mesh", "Mesh", "mesh"),
    ("t", "/tasks", "Tasks", "tasks"),
)
PSI_NAMES = {
    "psi": "Ψ",
    "verified": "Verified",
    "synchrony": "In step",
    "diversity": "Diverse",
    "learning": "Learning",
}

TABLES_ALONE = ("experiments", "steps", "evidence", "rounds", "ledger")  # tables that are no page's


def query(path: str, **params: object) -> str:
    """An address with those parameters that have a value (in templates, ``class_`` is ``class``)."""
    given = {key.rstrip("_"): str(value) for key, value in params.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def pretty(value: object) -> str:
    """JSON for reading; direction-changing characters stay escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    return "".join(c if c == "\n" or show.plain(c) != "" or c == " " else f"\\u{ord(c):04x}" for c in text)


def hexdump(text: str) -> str:
    """Hex digits as rows of 16 bytes with offset and printable ASCII."""
    raw = bytes.fromhex(text)
    rows = []
    for at in range(0, len(raw), 16):
        part = raw[at : at + 16]
        ascii_ = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        rows.append(f"{at:04x}  {part.hex(' '):<47}  {ascii_}")
    return "\n".join(rows)


def sigmas(milli: int | None) -> str:
    """Thousandths of σ as σ."""
    return show.NONE if milli is None else f"{milli / 1000:+.1f} σ".replace("-", show.MINUS)


def signed(value: int | None) -> str:
    """A small whole number with its sign; 0 and None have none."""
    return show.NONE if value is None else f"{value:+d}".replace("-", show.MINUS) if value else "0"


def progress(run: Running) -> int:
    """Whole per cent done."""
    return min(100, run.step * 100 // run.steps) if run.steps > 0 else 0


def whole(value: object) -> str:
    """An integer, or the digits of one, with thousands marked; any other text as it is."""
    text = str(value) if isinstance(value, int) else value
    if not isinstance(text, str) or not text:
        return show.NONE
    digits = text.removeprefix("-")
    return (
        show.count(int(text))
        if digits.isascii() and digits.isdigit() and len(digits) < 19
        else show.plain(text, 24)
    )


def rows_of(detail: dict[str, object], name: str, width: int) -> list[list[object]]:
    """The rows of one table inside opened evidence; rows of another shape are left out."""
    found = detail.get(name)
    return (
        [row for row in found if isinstance(row, list) and len(row) == width]
        if isinstance(found, list)
        else []
    )


def lower_is_better(direction: str) -> bool:
    """Whether less is better."""
    return not direction.startswith(("max", "higher"))


def status(word: str | None, text: str | None = None) -> Markup:
    """A status word (or ``text`` in its place) with its shape, drawn by the stylesheet: colour is never alone."""
    if not word:
        return Markup('<span class="s">–</span>')
    known = word if word in _STATUS else "other"
    return Markup('<span class="s {}">{}</span>').format(known, show.plain(text or word, 24))


_STATUS = frozenset(
    (*show.OUTCOMES, *show.VERDICTS, "pass", "fail", "waiting", "no-show", "void", "done", "now", "todo", "bad",
     "skipped", "solo"),
)  # fmt: skip


def static_files() -> dict[str, bytes]:
    """The files served as they are."""
    folder = resources.files("explorer").joinpath("static")
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}


@cache
def asset_version() -> str:
    """Changes with every change of a file that a page names, so that a browser never mixes versions."""
    digest = hashlib.sha256()
    for folder in ("static", "templates"):
        for item in sorted(resources.files("explorer").joinpath(folder).iterdir(), key=lambda i: i.name):
            if item.is_file():
                digest.update(item.name.encode() + b"\0" + item.read_bytes())
    return digest.hexdigest()[:10]


@cache
def environment() -> Environment:
    """The templates with the explorer's filters."""
    env = Environment(
        loader=PackageLoader("explorer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for name in (
        "metric",
        "gain",
        "gain_short",
        "trust",
        "amount",
        "count",
        "percent_ppm",
        "unit_ppm",
        "fidelity",
        "scaled",
        "cost",
        "size",
        "duration_ms",
        "short",
        "plain",
        "plural",
        "sentence",
        "ago",
        "moment",
        "xml",
    ):
        env.filters[name] = getattr(show, name)
    env.filters.update(
        whole=whole,
        signed=signed,
        status=status,
        pretty=pretty,
        hexdump=hexdump,
        sigmas=sigmas,
        changed=show.changed,
    )
    env.globals.update(
        query=query,
        recipe_value=show.recipe_value,
        progress=progress,
        rows_of=rows_of,
        drawing=lambda plot, direction, height=svg.HEIGHT: svg.drawing(
            plot, lower_is_better(direction), height
        ),
        markdown=markdown.render,
        bars=svg.bars,
        spark=svg.spark,
        curve=svg.curve,
        overlay=svg.overlay,
        cell=svg.cell,
        cell_width=svg.cell_width,
        lower_is_better=lower_is_better,
        nav=NAV,
        psi_names=PSI_NAMES,
        asset=asset_version,
        axes=("experiment", "time", "cost"),
        verdicts=show.VERDICTS,
        outcomes=show.OUTCOMES,
        tables=TABLES_ALONE,
    )
    return env


def html(page: Page, path: str, origin: str = "", canonical: str = "") -> str:
    """A page as HTML.

    Args:
        page: the value. path: the address it was asked under, for its JSON link.
        origin: ``http://host:port`` for the addresses that other programs fetch (a chat's preview); may be empty.
        canonical: the page's one whole address, for search engines; may be empty.
    """
    template = environment().get_template(f"{page.name}.html")
    text = template.render(p=page, frame=page.frame, path=path, origin=origin)
    if canonical:
        link = Markup('<link rel="canonical" href="{}"></head>').format(canonical)
        text = text.replace("</head>", link, 1)
    return text


def plot_svg(page: PlotPage, height: int = svg.HEIGHT) -> str:
    """The frontier plot as a picture of its own: no stylesheet, no script, nothing from elsewhere."""
    return environment().get_template("plot.svg").render(p=page, height=height)


def plot_png(page: PlotPage) -> bytes:
    """The same picture as PNG, 1,200 × 630 pixels.

    Raises:
        NoPicture: this system cannot make one.
    """
    return png.png(plot_svg(page, svg.WIDTH * png.HEIGHT // png.WIDTH - svg.TITLE))


def problem_html(status_code: int, title: str, detail: str) -> str:
    """An error page that needs no database."""
    return (
        environment().get_template("problem.html").render(status_code=status_code, title=title, detail=detail)
    )


__all__ = ["Plot", "environment", "html", "plot_png", "plot_svg", "problem_html", "query", "static_files"]
