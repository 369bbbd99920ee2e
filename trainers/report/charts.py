"""Small charts as inline SVG, each with a title and its numbers as a table. Colours come from the style sheet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from trainers.report.markup import element, table, text

WIDTH, HEIGHT = 380, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 30
_COLOURS = 7
_MOST_POINTS = 240
"""A drawing of this width shows no more; longer series are thinned."""
_TABLE_ROWS = 24


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
    """A figure with one line per series, and its numbers below, folded.

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
    parts = [_grid(frame, percent), *(_x_name(frame, x, name, len(places)) for x, name in places)]
    if zero:
        parts.append(f'<line class="zero" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{frame.y(0)}" y2="{frame.y(0)}"/>')
    for place, one in enumerate(series):
        shift = 7 * (place - (len(series) - 1) / 2) if x_names else 0.0  # intervals stand beside each other
        parts.append(_line(frame, place, one, marks, percent, shift))
    numbers = _numbers_table(series, x_names, x_title or "x", percent)
    return figure(title, drawing(title, parts), legend([one.name for one in series]), numbers, x_title)


def histogram(
    title: str,
    series: Sequence[tuple[str, Sequence[float]]],
    *,
    edges: Sequence[float],
    x_title: str,
    names: Sequence[str] = (),
) -> str:
    """Shares of values by interval, one group of bars per interval and one bar per series.

    Args:
        title: the caption.
        series: (name, values); one without values is left out.
        edges: ends of the intervals, ascending; an interval holds its lower end, the last one both.
        x_title: what the values are.
        names: of the intervals; without them their ends are shown.
    """
    series = [(name, [value for value in values if math.isfinite(value)]) for name, values in series]
    series = [(name, values) for name, values in series if values]
    if not series:
        return ""
    bins = list(itertools.pairwise(edges))
    labels = list(names) or [f"{low:g} – {high:g}" for low, high in bins]
    counts = [(name, _count(values, edges)) for name, values in series]
    shares = [(name, [count / sum(found) for count in found]) for name, found in counts]
    frame = _Frame(
        [Series("", [Point(len(bins) - 1, max(max(found) for _, found in shares)), Point(0, 0)])], True, True
    )
    parts = [_grid(frame, True), *(_x_name(frame, x, name, len(bins)) for x, name in enumerate(labels))]
    for place, ((name, found), (_, number)) in enumerate(zip(shares, counts, strict=True)):
        parts += [_bars(frame, place, len(shares), found, number, name, labels)]
    head = [x_title, *(text(f"{name} ({sum(found)})") for name, found in counts)]
    rows = [[text(label), *(str(found[at]) for _, found in counts)] for at, label in enumerate(labels)]
    return figure(title, drawing(title, parts), legend([name for name, _ in series]), numbers(head, rows), x_title)


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
    names = "".join(
        element("span", element("i", class_=f"swatch c{parts.index(part)}"), text(part)) for part in present
    )
    cells = [[text(name), *(str(counts.get(part, 0)) for part in present)] for name, counts in rows]
    folded = numbers(["", *map(text, present)], cells)
    return element("div", element("div", names, class_="legend"), *bars, folded, class_="bars")


# ---- what all figures share
def figure(title: str, picture: str, names: str, folded: str, below: str = "") -> str:
    """Caption, legend, drawing, what x counts, and the numbers."""
    caption = element("figcaption", element("b", text(title)), names)
    small = element("small", text(below)) if below else ""
    return element("figure", caption, picture, small, folded, class_="chart")


def drawing(title: str, parts: Sequence[str]) -> str:
    """An SVG with a title that is read out; what is drawn stands in the table too."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}" '
        f'preserveAspectRatio="xMidYMid meet"><title>{text(title)}</title>{"".join(parts)}</svg>'
    )


def legend(names: Sequence[str]) -> str:
    """Names beside their colours, where there is more than one."""
    if len(names) < 2:
        return ""
    swatches = (element("i", class_=f"swatch s{place % _COLOURS}") + text(name) for place, name in enumerate(names))
    return element("span", "".join(element("span", one) for one in swatches), class_="legend")


def numbers(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A folded table; cells are HTML already."""
    return element(
        "details", element("summary", "the numbers"), table(head, rows, class_="facts"), class_="plain numbers"
    )


def _numbers_table(series: Sequence[Series], x_names: Sequence[str], x_title: str, percent: bool) -> str:
    found: dict[float, dict[int, Point]] = {}
    for place, one in enumerate(series):
        for point in one.points:
            found.setdefault(point.x, {})[place] = point
    places = _evenly(sorted(found), _TABLE_ROWS)
    rows = [
        [
            text(x_names[int(x)] if x_names else f"{x:g}"),
            *(_number(found[x].get(place), percent) for place in range(len(series))),
        ]
        for x in places
    ]
    return numbers([text("" if x_names else x_title), *(text(one.name) for one in series)], rows)


def _number(point: Point | None, percent: bool) -> str:
    if point is None:
        return "–"
    if point.low is None or point.high is None:
        return _shown(point.y, percent)
    return f"{_shown(point.y, percent)} ({_shown(point.low, percent)} – {_shown(point.high, percent)})"


def _finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]


def _evenly(items: Sequence[float], most: int) -> list[float]:
    """At most so many of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(number * (len(items) - 1) / (most - 1))] for number in range(most)]


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """A long series as its lowest and highest point of each stretch, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(2 * len(points) / most)
    kept = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        ends = {min(part, key=lambda point: point.y), max(part, key=lambda point: point.y)}
        kept += sorted(ends, key=lambda point: point.x)
    return kept


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


def _x_name(frame: _Frame, x: float, name: str, among: int) -> str:
    longest = max(4, int((WIDTH - _LEFT - _RIGHT) / max(among, 1) / 6))  # a character is about 6 wide
    shown = name if len(name) <= longest else name[: longest - 1] + "…"
    return f'<text class="tick" x="{frame.x(x)}" y="{HEIGHT - 10}" text-anchor="middle">{text(shown)}</text>'


def _line(frame: _Frame, place: int, series: Series, marks: bool, percent: bool, shift: float) -> str:
    points = sorted(series.points, key=lambda point: point.x)
    points = points if marks else thinned(points)
    path = " ".join(f"{round(frame.x(point.x) + shift, 1)},{frame.y(point.y)}" for point in points)
    parts = [f'<polyline class="line" points="{path}"/>'] if len(points) > 1 else []
    for point in points:
        x = round(frame.x(point.x) + shift, 1)
        if point.low is not None and point.high is not None:
            parts.append(
                f'<line class="whisker" x1="{x}" x2="{x}" y1="{frame.y(point.low)}" y2="{frame.y(point.high)}"/>'
            )
        if marks:
            note = point.note or f"{series.name}: {_shown(point.y, percent)}"
            parts.append(f'<circle cx="{x}" cy="{frame.y(point.y)}" r="4"><title>{text(note)}</title></circle>')
    return f'<g class="series s{place % _COLOURS}">{"".join(parts)}</g>'


def _bars(
    frame: _Frame,
    place: int,
    among: int,
    shares: Sequence[float],
    counts: Sequence[int],
    name: str,
    labels: Sequence[str],
) -> str:
    """The bars of one series; each says its count when pointed at."""
    room = 0.8 * (frame.x(1) - frame.x(0))
    wide, parts = room / among, []
    for at, (share, count, label) in enumerate(zip(shares, counts, labels, strict=True)):
        left, top = frame.x(at) - room / 2 + place * wide, frame.y(share)
        note = text(f"{name}, {label}: {count} ({100 * share:.0f} %)")
        parts.append(
            f'<rect x="{left:.1f}" y="{top}" width="{max(wide - 1, 1):.1f}" height="{max(frame.y(0) - top, 0):.1f}">'
            f"<title>{note}</title></rect>"
        )
    return f'<g class="bins s{place % _COLOURS}">{"".join(parts)}</g>'


def _count(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many values each interval holds; what lies outside goes to the nearest one."""
    found = [0] * (len(edges) - 1)
    for value in values:
        place = sum(value >= edge for edge in edges) - 1
        found[min(max(place, 0), len(found) - 1)] += 1
    return found


def _shown(value: float, percent: bool) -> str:
    if percent:
        return f"{100 * value:.3g} %"
    return f"{value:.4g}".replace("-", "−")
