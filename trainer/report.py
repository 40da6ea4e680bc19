"""report.html: one self-contained file with embedded figures, no scripts and no downloads. The PNGs lie beside it."""

import base64
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from contract.bundle_warnings import is_red
from contract.files import write_whole
from contract.html import finalized, with_policy
from contract.printable import printable_lines
from contract.words import local_time

FIGURES = "figures"


def write_figures(folder: Path, figures: dict[str, bytes]) -> None:
    """Write each figure as figures/NAME.png."""
    (folder / FIGURES).mkdir(exist_ok=True)
    for name, content in figures.items():
        (folder / FIGURES / f"{name}.png").write_bytes(content)


def render(template: str, file: Path, pictures: dict[str, bytes], *, in_bundle: bool = False, **values: Any) -> None:
    """Render a template with these values; in it, `picture(name, caption)` embeds the figure of that name, if any.

    A page in a bundle is for all who read the bundle; every other one shows captures to its owner alone.
    """
    environment = Environment(
        loader=PackageLoader("trainer", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        finalize=finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["red"] = is_red
    environment.filters |= {
        "figure": figure, "percent": percent, "rate": rate, "measured": measured,
        "local_time": lambda text: local_time(datetime.fromisoformat(text)),
    }  # fmt: skip

    def picture(name: str, caption: str) -> Markup:
        if name not in pictures:
            return Markup("")
        data = base64.b64encode(pictures[name]).decode()
        text = escape(printable_lines(caption))
        return Markup(  # noqa: S704 - base64 and an escaped caption
            f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
        )

    page = environment.get_template(template).render(picture=picture, **values)
    if in_bundle:
        file.write_text(with_policy(page), encoding="utf-8")
    else:
        write_whole(file, with_policy(page))


def figure(value: float | None) -> str:
    """Four decimals, or a dash where there is no value."""
    return "–" if value is None else f"{value:.4f}"


def percent(value: float | None) -> str:
    """Per cent with one decimal, or a dash."""
    return "–" if value is None else f"{value:.1%}"


def rate(found: dict[str, Any]) -> str:
    """A share with its counts and interval: 98.1 % (52 of 53; 89.9 to 100.0 %)."""
    if found["value"] is None:
        return "–"
    low, high = found["interval"]
    return f"{found['value']:.1%} ({found['hits']} of {found['of']}; {low:.1%} to {high:.1%})"


def measured(found: dict[str, float | None], key: str) -> str:
    """A mean over seeds and its deviation, in the unit of its column; a dash where there is none."""
    mean, deviation = found["mean"], found["deviation"]
    if mean is None:
        return "–"
    scale, digits, suffix = {
        "parameters": (1e-6, 1, " M"),
        "multiply_adds": (1e-9, 2, " G"),
        "training_seconds": (1, 0, ""),
        "training_rate": (1, 1, ""),
        "scoring_rate": (1, 1, ""),
    }.get(key, (1, 4, ""))
    spread = f" ± {deviation * scale:.{digits}f}" if deviation is not None and not suffix else ""
    return f"{mean * scale:.{digits}f}{spread}{suffix}"
