"""Geometry of the drawings: values in, coordinates and path strings out. Colours are left to the stylesheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from explorer import show
from explorer.lanes import Cell
from explorer.pages.plot import FLOP_SPENT, Plot, Step

WIDTH, HEIGHT = 940, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 10, 40
TITLE = 62  # above the plot, where it stands alone
LABELS_MAX = 6
LABEL_CHARS = 34
CHAR_WIDTH = 6.6  # of the label font, for keeping labels apart
LABEL_HEIGHT = 15


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: str
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Point:
    """A marker of the frontier with its step."""

    x: str
    y: str
    step: Step


@dataclass(frozen=True, slots=True)
class Label:
    """The words beside a large step."""

    x: str
    y: str
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A frontier plot ready to be written as SVG."""

    width: int
    height: int
    left: int
    right: int
    bottom: int
    dots: str
    dash: str
    line: str
    solo: bool
    band_y: str
    band_height: str
    points: tuple[Point, ...]
    hollow: tuple[tuple[str, str, str, int], ...]  # x, y, cid, metric
    labels: tuple[Label, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers that divide a range into about ``wanted`` parts."""
    if high <= low:
        return [low]
    rough = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if rough <= m * magnitude * (1 + 1e-9))
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _n(value: float) -> str:
    """A coordinate with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")


def _dots(plot: Plot, pitch_x: float, pitch_y: float) -> str:
    """All cells as one path: a run of cells is one line, which the stylesheet's dashes cut into dots."""
    out: list[str] = []
    for row, column, length in plot.dots:
        x = LEFT + column * pitch_x
        y = TOP + row * pitch_y
        out.append(f"M{_n(x)} {_n(y)}h{_n((length - 1) * pitch_x + 0.1)}")
    return "".join(out)


def drawing(plot: Plot, lower: bool, height: int = HEIGHT) -> Drawing:
    """Lay out one frontier plot; ``lower``: less is better. ``height`` in pixels, for 940 of width."""
    inner_w, inner_h = WIDTH - LEFT - RIGHT, height - TOP - BOTTOM
    x_span, y_span = max(1, plot.x_high - plot.x_low), max(1, plot.y_high - plot.y_low)

    def at_x(value: float) -> float:
        return LEFT + (value - plot.x_low) / x_span * inner_w

    def at_y(value: float) -> float:
        return TOP + (plot.y_high - value) / y_span * inner_h

    pitch_x, pitch_y = inner_w / (plot.columns - 1), inner_h / (plot.rows - 1)
    line, band_y, band_height = "", "0", "0"
    if plot.steps:
        first, best = plot.steps[0], plot.steps[-1]
        line = f"M{_n(at_x(first.x))} {_n(at_y(first.metric))}"
        line += (
            "".join(f"H{_n(at_x(s.x))}V{_n(at_y(s.metric))}" for s in plot.steps[1:]) + f"H{WIDTH - RIGHT}"
        )
        upper_edge = max(float(TOP), at_y(best.metric + 2 * plot.sigma))
        band_y = _n(upper_edge)
        band_height = _n(
            max(0.0, min(float(height - BOTTOM), at_y(best.metric - 2 * plot.sigma)) - upper_edge)
        )
    y_ticks = ticks(plot.y_low / show.NBITS, plot.y_high / show.NBITS, 5)
    decimals = _decimals(y_ticks)
    return Drawing(
        width=WIDTH,
        height=height,
        left=LEFT,
        right=WIDTH - RIGHT,
        bottom=height - BOTTOM,
        dots=_dots(plot, pitch_x, pitch_y),
        dash=f"0 {pitch_x:.4f}",
        line=line,
        solo=bool(plot.steps) and plot.steps[-1].status == "solo",
        band_y=band_y,
        band_height=band_height,
        points=tuple(Point(x=_n(at_x(s.x)), y=_n(at_y(s.metric)), step=s) for s in plot.steps),
        hollow=tuple((_n(at_x(h.x)), _n(at_y(h.metric)), h.cid, h.metric) for h in plot.hollow),
        labels=_labels(plot, at_x, at_y, lower, height),
        x_ticks=tuple(
            Tick(at=_n(at_x(v)), text=_x_text(plot.x_unit, v), anchor=_anchor(at_x(v)))
            for v in _whole(ticks(plot.x_low, plot.x_high, 6))
        ),
        y_ticks=tuple(Tick(at=_n(at_y(v * show.NBITS)), text=f"{v:.{decimals}f}") for v in y_ticks),
    )


def _anchor(x: float) -> str:
    """Where the text of a mark stands, so that it stays inside the drawing at its right edge."""
    return "end" if x > WIDTH - RIGHT - 12 else "middle"


def _whole(values: list[float]) -> list[float]:
    return [v for v in values if v == int(v)]


def _x_text(unit: str, value: float) -> str:
    return show.scaled(int(value), "FLOP") if unit == FLOP_SPENT else show.count(int(value))


def _decimals(values: Sequence[float]) -> int:
    """The fewest decimals that tell neighbouring ticks apart."""
    for digits in range(1, 7):
        if all(abs(round(v, digits) - v) < 10 ** -(digits + 2) for v in values):
            return max(digits, 2)
    return 6


def _labels(plot: Plot, at_x: object, at_y: object, lower: bool, height: int) -> tuple[Label, ...]:
    """Words beside the largest steps, the largest first, where they cover no other words and not the line."""
    assert callable(at_x)
    assert callable(at_y)
    drops = []
    for before, step in zip(plot.steps, plot.steps[1:], strict=False):
        change = before.metric - step.metric if lower else step.metric - before.metric
        drops.append((change, step))
    drops.sort(key=lambda item: -item[0])
    taken: list[tuple[float, float, float, float]] = []
    out: list[Label] = []
    for change, step in drops:
        if len(out) == LABELS_MAX or change <= 0:
            break
        text = show.plain(show.changed(step.changed, 2) or step.title, LABEL_CHARS)
        width = len(text) * CHAR_WIDTH
        x, y = at_x(step.x) + 8, at_y(step.metric) + (-7 if lower else 17)
        anchor = "start"
        if x + width > WIDTH - RIGHT:
            x, anchor = at_x(step.x) - 8, "end"
            y = at_y(step.metric) + (17 if lower else -7)
            if y > height - BOTTOM - 4:
                continue
        left = x if anchor == "start" else x - width
        box = (left, y - LABEL_HEIGHT, left + width, y)
        if not text or any(
            box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken
        ):
            continue
        taken.append(box)
        out.append(Label(x=_n(x), y=_n(y), anchor=anchor, text=text))
    return tuple(out)


CURVE_WIDTH, CURVE_HEIGHT = 460, 150


@dataclass(frozen=True, slots=True)
class Curve:
    """A training-loss curve ready to be written as SVG."""

    line: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = CURVE_WIDTH
    height: int = CURVE_HEIGHT


def curve(values: tuple[int, ...], steps: int) -> Curve | None:
    """Lay out a loss curve of micro-nats over training steps; None for fewer than two points."""
    if len(values) < 2:
        return None
    left, right, top, bottom = 48, CURVE_WIDTH - 10, 8, CURVE_HEIGHT - 24
    low, high = min(values), max(values)
    span = max(1, high - low)

    def at_y(value: float) -> float:
        return top + (high - value) / span * (bottom - top)

    gap = (right - left) / (len(values) - 1)
    line = "M" + "L".join(f"{_n(left + i * gap)} {_n(at_y(v))}" for i, v in enumerate(values))
    found = ticks(low / 1e6, high / 1e6, 3)
    digits = _decimals(found)
    return Curve(
        line=line,
        x_ticks=(Tick(at=str(left), text="0"), Tick(at=str(right), text=f"{steps:,} steps")),
        y_ticks=tuple(Tick(at=_n(at_y(v * 1e6)), text=f"{v:.{digits}f}") for v in found),
    )


LANE = 14  # pixels between the lines of the graph


def cell_width(columns: int) -> int:
    """Pixels of a graph with so many columns."""
    return columns * LANE + 6


def cell(place: Cell) -> str:
    """The lines of one row of the graph as a path; a row is 100 high, whatever its text makes of it."""
    x = place.lane * LANE + 10
    out = [f"M{x} 0V50"] if place.above else []
    out += [f"M{lane * LANE + 10} 0V100" for lane in place.through]
    for lane in place.down:
        to = lane * LANE + 10
        out.append(f"M{x} 50V100" if to == x else f"M{x} 50C{x} 85 {to} 65 {to} 100")
    return "".join(out)


OVERLAY_WIDTH, OVERLAY_HEIGHT = 760, 220
LETTER = 13  # from one letter to the next


class Curved(Protocol):
    """What has a training-loss curve."""

    @property
    def curve(self) -> tuple[int, ...]:
        """Micro-nats, evenly spaced over the steps."""

    @property
    def steps(self) -> int:
        """Training steps."""


@dataclass(frozen=True, slots=True)
class OverlayLine:
    """One of several curves, and where its letter stands."""

    index: int
    path: str
    x: str
    y: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """Training-loss curves on one pair of axes."""

    lines: tuple[OverlayLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = OVERLAY_WIDTH
    height: int = OVERLAY_HEIGHT


def _apart(heights: list[float], lowest: float) -> list[float]:
    """Heights of letters, given from the top down, moved so that none is on another and none below ``lowest``."""
    out: list[float] = []
    for y in heights:
        out.append(max(y, out[-1] + LETTER) if out else y)
    limit = lowest
    for index in reversed(range(len(out))):
        out[index] = min(out[index], limit)
        limit = out[index] - LETTER
    return out


def overlay(sides: Sequence[Curved]) -> Overlay | None:
    """Lay out several loss curves over their steps; None if none has two points."""
    drawn = [(i, s.curve, max(1, s.steps)) for i, s in enumerate(sides) if len(s.curve) > 1]
    if not drawn:
        return None
    left, right, top, bottom = 48, OVERLAY_WIDTH - 22, 10, OVERLAY_HEIGHT - 24
    low = min(min(values) for _, values, _ in drawn)
    high = max(max(values) for _, values, _ in drawn)
    longest = max(steps for _, _, steps in drawn)
    span = max(1, high - low)

    def at_y(value: float) -> float:
        return top + (high - value) / span * (bottom - top)

    ordered = sorted(drawn, key=lambda one: -one[1][-1])
    heights = _apart([at_y(values[-1]) for _, values, _ in ordered], bottom - 2)
    lines: list[OverlayLine] = []
    for (index, values, steps), y in zip(ordered, heights, strict=True):
        gap = (right - left) * steps / longest / (len(values) - 1)
        path = "M" + "L".join(f"{_n(left + i * gap)} {_n(at_y(v))}" for i, v in enumerate(values))
        end = left + (len(values) - 1) * gap
        lines.append(OverlayLine(index=index, path=path, x=_n(end + 5), y=_n(y)))
    found = ticks(low / 1e6, high / 1e6, 4)
    digits = _decimals(found)
    return Overlay(
        lines=tuple(sorted(lines, key=lambda line: line.index)),
        x_ticks=(Tick(at=str(left), text="0"), Tick(at=str(right), text=f"{longest:,} steps")),
        y_ticks=tuple(Tick(at=_n(at_y(v * 1e6)), text=f"{v:.{digits}f}") for v in found),
    )


BARS_WIDTH, BARS_HEIGHT = 940, 150


class Sealed(Protocol):
    """What has a round's numbers."""

    @property
    def round(self) -> int:
        """Its number."""

    @property
    def trust(self) -> int:
        """Trust of those who sealed it."""

    @property
    def trust_total(self) -> int:
        """Trust of all."""

    @property
    def acknowledged(self) -> int:
        """Records."""

    @property
    def settled(self) -> bool:
        """Whether it stays as it is."""


@dataclass(frozen=True, slots=True)
class Bars:
    """Two rows of bars, one bar a round: sealed trust above, acknowledged records below."""

    settled: str
    young: str
    acknowledged: str
    marks: tuple[tuple[str, str], ...]
    x_ticks: tuple[tuple[str, str], ...]
    most: int  # records of the tallest bar below
    left: int = 50
    right: int = BARS_WIDTH - 8
    width: int = BARS_WIDTH
    height: int = BARS_HEIGHT


def bars(rounds: Sequence[Sealed]) -> Bars:
    """Lay out the last rounds, given newest first."""
    ordered = sorted(rounds, key=lambda r: r.round)
    first, last = ordered[0].round, ordered[-1].round
    left, right, top, middle, bottom = 50, BARS_WIDTH - 8, 8, 72, BARS_HEIGHT - 22
    pitch = min(40.0, (right - left) / max(1, last - first + 1))
    most = max(1, *(r.acknowledged for r in ordered))
    wide = _n(max(1.0, pitch - 2))
    parts: dict[str, list[str]] = {"settled": [], "young": [], "acknowledged": []}
    for r in ordered:
        x = _n(left + (r.round - first) * pitch)
        share = min(1.0, r.trust / r.trust_total) if r.trust_total > 0 else 0.0
        high = share * (middle - top)
        parts["settled" if r.settled else "young"].append(f"M{x} {middle}v{_n(-high)}h{wide}v{_n(high)}z")
        low = r.acknowledged / most * (bottom - middle - 10)
        parts["acknowledged"].append(f"M{x} {bottom}v{_n(-low)}h{wide}v{_n(low)}z")
    numbers = [int(v) for v in _whole(ticks(first, last, 8))]
    return Bars(
        settled="".join(parts["settled"]),
        young="".join(parts["young"]),
        acknowledged="".join(parts["acknowledged"]),
        marks=((str(top), "100 %"), (_n((top + middle) / 2), "50 %")),
        x_ticks=tuple((_n(left + (v - first + 0.5) * pitch), show.count(v)) for v in numbers),
        most=most,
    )


SPARK_WIDTH, SPARK_HEIGHT = 220, 48
PPM = 1_000_000


class Dated(Protocol):
    """A value at a round."""

    @property
    def round(self) -> int:
        """Its round."""

    @property
    def value(self) -> int | None:
        """Parts per million."""


@dataclass(frozen=True, slots=True)
class Spark:
    """A small line over rounds between 0 and 1, with a dot at its end."""

    line: str
    x: str
    y: str
    ended: bool  # the newest value is known
    low: str
    high: str
    width: int = SPARK_WIDTH
    height: int = SPARK_HEIGHT


def spark(points: Sequence[Dated]) -> Spark:
    """Lay out a part of Ψ, oldest first; a gap where nothing could be measured."""
    left, right, top, bottom = 4, SPARK_WIDTH - 6, 5, SPARK_HEIGHT - 5
    first, last = points[0].round, points[-1].round
    span = max(1, last - first)
    path, x, y, pen = "", float(right), float(bottom), False
    for point in points:
        if point.value is None:
            pen = False
            continue
        x = left + (point.round - first) / span * (right - left) if last > first else (left + right) / 2
        y = bottom - max(0, min(PPM, point.value)) / PPM * (bottom - top)
        path += f"{'L' if pen else 'M'}{_n(x)} {_n(y)}" + ("" if pen else "h0")
        pen = True
    return Spark(
        line=path, x=_n(x), y=_n(y), ended=points[-1].value is not None, low=_n(bottom), high=_n(top)
    )
