"""Line charts as inline SVG: pure functions of numbers; colours are the page's CSS variables, in light and in dark."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 348, 8, 166
COLOURS = 6
"""Number of colours that the page defines as `--c0` and on; a curve after the last of them is dashed."""
_DASHES = ("", "6 3", "2 2.5")
_MOST_DOTS = 60
Axis = Callable[[Any], Any]
Points = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]
Curve = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]
"""Values, and the ends of their intervals."""


@dataclass(frozen=True)
class Line:
    """Hold a curve: its points, the ends of its interval (NaN where there is none), and the curves that it sums up.

    `style` numbers the curves of a page, so that a run looks the same in all charts.
    """

    label: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    faint: Sequence[Points] = ()
    style: int = 0


def bare(y: Float[np.ndarray, " n"]) -> Curve:
    """Return a curve without intervals."""
    return y, np.full(len(y), np.nan), np.full(len(y), np.nan)


def chart(lines: Sequence[Line], title: str, unit: str, bounds: tuple[float, float] | None = None) -> str:
    """Return an SVG as wide as its place; the vertical axis spans `bounds`, or else what was measured."""
    points = [(line.x, line.y) for line in lines] + [each for line in lines for each in line.faint]
    across, up = (np.concatenate([each[axis] for each in points]) for axis in (0, 1))
    left, right = _span(across)
    low, high = bounds or _roomy(*_span(up), np.concatenate([[*line.low, *line.high] for line in lines]))
    x = lambda value: _LEFT + (value - left) / (right - left) * (_RIGHT - _LEFT)  # noqa: E731
    y = lambda value: _BOTTOM - (np.clip(value, low, high) - low) / (high - low) * (_BOTTOM - _TOP)  # noqa: E731
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(_said(lines, title, unit))}">']
    for tick in ticks(low, high, 4):
        parts.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{_RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    parts += [
        f'<text x="{x(tick):.1f}" y="{_BOTTOM + 15}" text-anchor="middle">{short(tick)}</text>'
        for tick in ticks(left, right, 6, whole=True)
    ]
    parts.append(f'<text x="{_RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{escape(unit)}</text>')
    for line in lines:
        parts += _drawn(line, x, y, unit)
    return "".join([*parts, "</svg>"])


def swatch(style: int) -> str:
    """Return a short piece of a curve, for a legend."""
    return f'<svg class="swatch" viewBox="0 0 26 8" aria-hidden="true"><path d="M1 4H25" {_stroke(style)}/></svg>'


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Return at most about `count` round numbers from `low` to `high`."""
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * (1 - 1e-9))
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """Return a number in few characters."""
    if not math.isfinite(value):
        return str(value)
    if 999.5 <= abs(value) < 9_999.5:
        return f"{value:.0f}"
    if 9_999.5 <= abs(value) < 1e9:
        power = 1_000_000 if abs(value) >= 1_000_000 else 1_000
        return f"{value / power:.3g}{'M' if power > 1_000 else 'k'}"
    return f"{value:.3g}"


def _span(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Return the ends of an axis: a little more than what is finite, and from 0 where that is near."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value: in the middle
        room = 0.5 * abs(low) or 1.0
        return low - room, high + room
    if 0 < low < 0.3 * high:
        low = 0.0
    return low, high


def _roomy(low: float, high: float, ends: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Return an axis that has room for the ends of intervals too, as far as that does not flatten the curves."""
    finite, more = ends[np.isfinite(ends)], 0.3 * (high - low)
    if not len(finite):
        return low, high
    return max(min(low, float(finite.min())), low - more), min(max(high, float(finite.max())), high + more)


def _drawn(line: Line, x: Axis, y: Axis, unit: str) -> list[str]:
    stroke = _stroke(line.style)
    parts = []
    some = np.isfinite(line.low) & np.isfinite(line.high) & np.isfinite(line.y)
    if some.sum() > 1:
        there = [*zip(x(line.x[some]), y(line.low[some]), strict=True)]
        back = [*zip(x(line.x[some]), y(line.high[some]), strict=True)][::-1]
        parts.append(f'<path d="{_path([*there, *back])}Z" fill="var(--c{line.style % COLOURS})" class="band"/>')
    for xs, ys in line.faint:
        parts.append(f'<path d="{_path(zip(x(xs), y(ys), strict=True))}" {stroke} class="faint"/>')
    parts.append(f'<path d="{_path(zip(x(line.x), y(line.y), strict=True))}" {stroke}/>')
    dots = [(xs, ys) for xs, ys in (line.faint or [(line.x, line.y)]) if len(xs) <= _MOST_DOTS]
    if sum(len(xs) for xs, _ in dots) <= _MOST_DOTS:
        for across, value in (pair for xs, ys in dots for pair in zip(xs, ys, strict=True) if np.isfinite(pair[1])):
            told = f"{line.label}, {unit} {short(across)}: {short(value)}"
            parts.append(
                f'<circle cx="{x(across):.1f}" cy="{y(value):.1f}" r="2.2" fill="var(--c{line.style % COLOURS})">'
                f"<title>{escape(told)}</title></circle>"
            )
    return parts


def _stroke(style: int) -> str:
    dash = _DASHES[style // COLOURS % len(_DASHES)]
    return f'fill="none" stroke="var(--c{style % COLOURS})" stroke-width="2"' + f' stroke-dasharray="{dash}"' * bool(
        dash
    )


def _path(points: Iterable[tuple[float, float]]) -> str:
    """Return path data with a gap where a value is not finite."""
    words, drawing = [], False
    for across, up in points:
        if good := bool(np.isfinite(up)):
            words.append(f"{'L' if drawing else 'M'}{across:.1f} {up:.1f}")
        drawing = good
    return "".join(words)


def _said(lines: Sequence[Line], title: str, unit: str) -> str:
    """Return a chart in words, for who does not see it."""
    ends = [
        f"{line.label} from {short(line.y[0])} to {short(line.y[-1])} at {unit} {short(line.x[-1])}" for line in lines
    ]
    return f"{title}: {'; '.join(ends)}"
