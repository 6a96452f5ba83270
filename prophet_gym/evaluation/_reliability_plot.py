"""The reliability plot: stated probability of success against observed frequency, as an SVG without any library."""

from collections.abc import Mapping, Sequence
from typing import Any

from prophet_gym.evaluation._calibration import SOURCES

SIZE, MARGIN = 320, 48
COLOURS = {"real": "#1b6ca8", "dream": "#c8553d"}


def reliability_svg(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Draw each source's bins of `reliability`; a bin's disc grows with its count, its bar is the 95% interval."""
    width = SIZE + 2 * MARGIN
    marks = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {width}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{width}" height="{width}" fill="white"/>',
        f'<rect x="{MARGIN}" y="{MARGIN}" width="{SIZE}" height="{SIZE}" fill="none" stroke="#888"/>',
        f'<line x1="{_x(0.0)}" y1="{_y(0.0)}" x2="{_x(1.0)}" y2="{_y(1.0)}" stroke="#bbb" stroke-dasharray="4 4"/>',
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        marks.append(f'<text x="{_x(tick)}" y="{_y(0.0) + 16}" text-anchor="middle">{tick:g}</text>')
        marks.append(f'<text x="{_x(0.0) - 6}" y="{_y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    middle = MARGIN + SIZE / 2
    marks.append(f'<text x="{middle}" y="{width - 8}" text-anchor="middle">stated probability of success</text>')
    marks.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">observed frequency</text>'
    )
    most = max((place["count"] for bins in curves.values() for place in bins), default=1)
    for number, (name, bins) in enumerate(curves.items()):
        x, y, colour = _x(0.0) + 10, _y(1.0) + 18 + 16 * number, COLOURS[name]
        marks += _curve(bins, colour, most)
        marks.append(f'<text x="{x}" y="{y}" fill="{colour}">{SOURCES[name]}</text>')
    return "\n".join([*marks, "</svg>"]) + "\n"


def _curve(bins: Sequence[Mapping[str, Any]], colour: str, most: int) -> list[str]:
    places = [(_x(place["probability"]), place["rate"], place["count"]) for place in bins]
    line = " ".join(f"{x:.1f},{_y(rate['mean']):.1f}" for x, rate, _ in places)
    marks = [f'<polyline points="{line}" fill="none" stroke="{colour}"/>']
    for x, rate, count in places:
        low, high = _y(rate["low"]), _y(rate["high"])
        marks.append(f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        radius = 2 + 5 * (count / most) ** 0.5
        marks.append(f'<circle cx="{x:.1f}" cy="{_y(rate["mean"]):.1f}" r="{radius:.1f}" fill="{colour}"/>')
    return marks


def _x(value: float) -> float:
    return MARGIN + SIZE * value


def _y(value: float) -> float:
    return MARGIN + SIZE * (1 - value)
