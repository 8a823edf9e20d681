"""Curves as small SVG files, without a library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 420, 64, 56, 48, 24
COLOURS = ("#c00000", "#1f4e79", "#548235", "#7f7f7f")


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    points: Sequence[tuple[float, float]]


def svg(title: str, x_name: str, y_name: str, curves: Sequence[Curve]) -> str:
    """x on a logarithmic scale from the least to the greatest, y from zero."""
    xs = [x for curve in curves for x, _ in curve.points]
    top = max((y for curve in curves for _, y in curve.points), default=1) * 1.1 or 1
    low, high = math.log10(min(xs, default=1)), math.log10(max(xs, default=10))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - low) / ((high - low) or 1)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / top * (HEIGHT - BOTTOM - TOP),
        )

    step = _step(top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="16">{escape(title)}</text>',
        f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_name)}</text>',
        f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {HEIGHT / 2})">{escape(y_name)}</text>',
    ]
    value = 0.0
    while value <= top:
        _, y = place(10**low, value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        value = round(value + step, 6)
    for x in sorted(set(xs)):
        across, bottom = place(x, 0)
        parts.append(f'<text x="{across:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{x:g}</text>')
    for index, curve in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        placed = [place(x, y) for x, y in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(
            f'<text x="{WIDTH - RIGHT}" y="{TOP + 16 * index}" text-anchor="end" fill="{colour}">'
            f"{escape(curve.name)}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _step(top: float) -> float:
    """1, 2 or 5 times a power of ten, for four to ten lines."""
    power: float = 10.0 ** math.floor(math.log10(top / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if top / (power * factor) <= 10)
