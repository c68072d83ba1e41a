"""The ablation's figure: fidelity against CPU seconds."""

import math
import statistics

from ablation_cells import COLUMNS, DEFAULT, REFERENCE_NAMES
from ablation_page import Results, cosine, cpu

COLORS = {"full": "#2563eb", "a": "#d97706", "b": "#059669", "c": "#db2777"}


def drawing(results: Results) -> str:
    """An SVG of cosine against CPU seconds: a dot for each cell (means over seeds), a ring for each reference."""
    width, height, left, top = 640, 380, 70, 40
    points = [
        (statistics.mean(map(cpu, runs.values())), statistics.mean(map(cosine, runs.values())), row, column)
        for (row, column), runs in results.cells.items()
        if column in COLUMNS
    ]
    xs, ys = [math.log10(x) for x, *_ in points], [y for _, y, *_ in points]
    low_x, high_x = min(xs) - 0.05, max(xs) + 0.05
    margin = 0.06 * (max(ys) - min(ys) or 1)
    low_y, high_y = min(ys) - margin, max(ys) + margin

    def place(seconds: float, value: float) -> tuple[float, float]:
        across, up = (math.log10(seconds) - low_x) / (high_x - low_x), (value - low_y) / (high_y - low_y)
        return left + across * width, top + (1 - up) * height

    parts = [
        f'<text x="{left}" y="{top - 16}" class="title">mean cosine on held-out speech against CPU seconds</text>',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" class="frame"/>',
    ]
    for seconds in (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80, 120):
        if low_x <= math.log10(seconds) <= high_x:
            x, _ = place(seconds, low_y)
            parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + height}" class="grid"/>')
            parts.append(
                f'<text x="{x:.1f}" y="{top + height + 18}" class="tick" text-anchor="middle">{seconds}</text>'
            )
    for step in range(5):
        value = low_y + (high_y - low_y) * (step + 0.5) / 5
        _, y = place(10**low_x, value)
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" class="tick" text-anchor="end">{value:.2f}</text>')
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 38}" class="tick" text-anchor="middle">'
        "CPU seconds of training (logarithmic)</text>"
    )
    for seconds, value, row, column in points:
        x, y = place(seconds, value)
        paint = f'fill="none" stroke="{COLORS[column]}"' if row in REFERENCE_NAMES else f'fill="{COLORS[column]}"'
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {paint} opacity=".8"><title>{row}, {column}: '
            f"{value:.3f}, {seconds:.1f} s</title></circle>"
        )
        if row == DEFAULT:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="#333"/>')
    for number, (column, color) in enumerate(COLORS.items()):
        x = left + width - 190 + 48 * number
        parts.append(f'<circle cx="{x}" cy="{top - 20}" r="4" fill="{color}"/>')
        label = column if column == "full" else f"({column})"
        parts.append(f'<text x="{x + 8}" y="{top - 16}" class="tick">{label}</text>')
    style = (
        "text{font:13px system-ui,sans-serif;fill:#333}.title{font-weight:600}.tick{fill:#666;font-size:12px}"
        ".frame{fill:none;stroke:#999}.grid{stroke:#ddd}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {top + height + 50}" role="img">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
