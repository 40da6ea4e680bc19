"""report.html, the model card: one self-contained file, its figures drawn as SVG, no script and nothing fetched."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from contract.bundle import Manifest

WIDTH, HEIGHT, MARGIN = 560, 240, 44
CURVES = (("loss", "#8a3b8f", "training loss"), ("validation_loss", "#c77d1a", "validation loss"),
          ("validation_accuracy", "#1f6f54", "validation accuracy"))  # fmt: skip


def write_report(file: Path, manifest: Manifest) -> None:
    """Render the card from what the manifest will hold."""
    environment = Environment(
        loader=PackageLoader("trainer", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    page = environment.get_template("report.html").render(m=manifest, curves=curves(manifest.provenance["history"]))
    file.write_text(page, encoding="utf-8")


def figure(value: float | None) -> str:
    """Four decimals, or a dash where a figure cannot be had."""
    return "–" if value is None else f"{value:.4f}"


def curves(history: list[dict[str, Any]]) -> Markup:
    """Loss and accuracy over epochs as inline SVG; accuracy has the scale 0 to 1, as drawn, losses share the axis."""
    losses = [row[name] for row in history for name, *_ in CURVES[:2] if row[name] is not None]
    top = max(1.0, *losses) if losses else 1.0
    parts = [_axes(len(history), top)]
    for number, (name, colour, title) in enumerate(CURVES):
        points = [(i, row[name]) for i, row in enumerate(history) if row[name] is not None]
        path = " ".join(f"{_x(i, len(history)):.1f},{_y(value, top):.1f}" for i, value in points)
        dots = "".join(
            f'<circle cx="{_x(i, len(history)):.1f}" cy="{_y(v, top):.1f}" r="2.5" fill="{colour}"/>' for i, v in points
        )
        legend = f'<text x="{MARGIN + number * 160}" y="14" fill="{colour}">{title}</text>'
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>{dots}{legend}')
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Training curves">{"".join(parts)}</svg>'
    return Markup(svg)  # noqa: S704 - numbers and the titles above, nothing from outside


def _axes(epochs: int, top: float) -> str:
    lines = []
    for part in range(5):
        value = top * part / 4
        y = _y(value, top)
        lines.append(f'<line x1="{MARGIN}" y1="{y:.1f}" x2="{WIDTH - 10}" y2="{y:.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    every = max(1, epochs // 12)
    for i in range(0, epochs, every):
        lines.append(f'<text x="{_x(i, epochs):.1f}" y="{HEIGHT - 22}" text-anchor="middle">{i + 1}</text>')
    lines.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">epoch</text>')
    return "".join(lines)


def _x(index: int, count: int) -> float:
    return MARGIN + (WIDTH - MARGIN - 20) * (index / (count - 1) if count > 1 else 0.5)


def _y(value: float, top: float) -> float:
    return HEIGHT - 40 - (HEIGHT - 64) * value / top
