"""Small charts as inline SVG: lines with intervals, and stacked bars. Colours come from the style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from trainers.report.markup import element, text

WIDTH, HEIGHT = 380, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 30


class Point(NamedTuple):
    """A value, with its interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    """What the tooltip says."""


class Series(NamedTuple):
    """A line of the chart; its place in the list gives its colour."""

    name: str
    points: Sequence[Point]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_names: Sequence[str] = (),
    x_title: str = "",
    percent: bool = False,
    marks: bool = True,
    zero: bool = False,
) -> str:
    """A figure with one line per series.

    Args:
        title: the caption; says what is measured.
        series: their points are finite; a series without points is left out.
        x_names: names of x = 0, 1, 2, ...; without them x is a number.
        x_title: what x counts.
        percent: y is a share, shown in per cent.
        marks: a dot at every point.
        zero: y = 0 belongs to the picture, with a line of its own.
    """
    series = [one for one in (Series(name, _finite(points)) for name, points in series) if one.points]
    if not series:
        return ""
    frame = _Frame(series, bool(x_names), zero or percent)  # a share is seen against 0
    places = list(enumerate(x_names)) if x_names else [(tick, f"{tick:g}") for tick in frame.x_ticks()]
    parts = [_grid(frame, percent), *(_x_name(frame, x, name) for x, name in places)]
    if zero:
        parts.append(f'<line class="zero" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{frame.y(0)}" y2="{frame.y(0)}"/>')
    parts += [_line(frame, place, one, marks, percent) for place, one in enumerate(series)]
    drawing = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}" '
        f'preserveAspectRatio="xMidYMid meet">{"".join(parts)}</svg>'
    )
    legend = "".join(
        element("span", element("i", class_=f"swatch s{place % 4}"), text(one.name)) for place, one in enumerate(series)
    )
    named = element("span", legend, class_="legend") if len(series) > 1 else ""
    caption = element("figcaption", element("b", text(title)), named)
    return element("figure", caption, drawing, element("small", text(x_title)) if x_title else "", class_="chart")


def stacked_bars(rows: Sequence[tuple[str, dict[str, int]]], parts: Sequence[str]) -> str:
    """One bar per row, divided into named parts; every row is drawn to the same length.

    Args:
        rows: (name, count by part).
        parts: all parts in their order; the place of a part gives its colour.
    """
    present = [part for part in parts if any(counts.get(part) for _, counts in rows)]
    bars = []
    for name, counts in rows:
        total = max(sum(counts.values()), 1)
        pieces = "".join(
            element(
                "span",
                text(counts[part]) if counts[part] / total > 0.05 else "",
                class_=f"piece c{parts.index(part)}",
                style=f"width:{100 * counts[part] / total:.2f}%",
                title=f"{part}: {counts[part]} of {total}",
            )
            for part in present
            if counts.get(part)
        )
        bars.append(element("div", element("b", text(name)), element("div", pieces, class_="bar"), class_="bars-row"))
    legend = "".join(
        element("span", element("i", class_=f"swatch c{parts.index(part)}"), text(part)) for part in present
    )
    return element("div", element("div", legend, class_="legend"), *bars, class_="bars")


def _finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]


class _Frame:
    """From numbers to places in the drawing."""

    def __init__(self, series: Sequence[Series], named: bool, zero: bool) -> None:
        points = [point for one in series for point in one.points]
        xs = [point.x for point in points]
        ys = [value for point in points for value in (point.y, point.low, point.high) if value is not None]
        ys += [0.0] if zero else []
        self.x_low, self.x_high = min(xs), max(xs)
        if named or self.x_low == self.x_high:
            self.x_low, self.x_high = self.x_low - 0.5, self.x_high + 0.5
        flat_at_zero = min(ys) == max(ys) == 0
        self.y_ticks = [0.0, 0.5, 1.0] if flat_at_zero else _ticks(min(ys), max(ys))
        self.y_low, self.y_high = self.y_ticks[0], self.y_ticks[-1]

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)

    def x_ticks(self) -> list[float]:
        """Whole numbers, since x counts something."""
        ticks = _ticks(self.x_low, self.x_high)
        return [tick for tick in ticks if self.x_low <= tick <= self.x_high and tick == round(tick)]


def _ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that enclose the range."""
    if high - low < 1e-12:
        low, high = low - max(abs(low), 1) * 0.05, high + max(abs(high), 1) * 0.05
    raw = (high - low) / about
    scale = 10 ** math.floor(math.log10(raw))
    step = next(factor * scale for factor in (1, 2, 2.5, 5, 10) if factor * scale >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _grid(frame: _Frame, percent: bool) -> str:
    parts = []
    for tick in frame.y_ticks:
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{_shown(tick, percent)}</text>')
    return "".join(parts)


def _x_name(frame: _Frame, x: float, name: str) -> str:
    return f'<text class="tick" x="{frame.x(x)}" y="{HEIGHT - 10}" text-anchor="middle">{text(name)}</text>'


def _line(frame: _Frame, place: int, series: Series, marks: bool, percent: bool) -> str:
    points = sorted(series.points, key=lambda point: point.x)
    path = " ".join(f"{frame.x(point.x)},{frame.y(point.y)}" for point in points)
    parts = [f'<polyline class="line" points="{path}"/>'] if len(points) > 1 else []
    for point in points:
        x = frame.x(point.x)
        if point.low is not None and point.high is not None:
            parts.append(
                f'<line class="whisker" x1="{x}" x2="{x}" y1="{frame.y(point.low)}" y2="{frame.y(point.high)}"/>'
            )
        if marks:
            note = point.note or f"{series.name}: {_shown(point.y, percent)}"
            parts.append(f'<circle cx="{x}" cy="{frame.y(point.y)}" r="4"><title>{text(note)}</title></circle>')
    return f'<g class="series s{place % 4}">{"".join(parts)}</g>'


def _shown(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:g}".replace("-", "−")
