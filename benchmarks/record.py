"""Parts that all benchmarks share: options, description of the machine, tables, JSON."""

import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

LIBRARIES = (
    "slide-screen", "openvino", "onnxruntime", "tensorrt-rtx", "torch", "timm", "fastai", "simplejpeg", "pillow",
    "opencv-python-headless", "celery", "sqlalchemy", "psycopg", "numpy",
)  # fmt: skip
console = Console(stderr=True)
_F = TypeVar("_F", bound=Callable[..., Any])


def json_option(function: _F) -> _F:
    return click.option(
        "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures to this file."
    )(function)


def databases_option(function: _F) -> _F:
    return click.option(
        "--database", "databases", type=click.Choice(["sqlite", "postgresql"]), multiple=True,
        default=("sqlite", "postgresql"), show_default=True,
    )(function)  # fmt: skip


def work_option(function: _F) -> _F:
    return click.option(
        "--work", type=click.Path(path_type=Path, file_okay=False),
        help="Folder for captures and bundle, kept for the next time; default: a temporary one.",
    )(function)  # fmt: skip


@contextmanager
def work_folder(work: Path | None) -> Iterator[Path]:
    """The folder that the user named, or a temporary one that is removed afterwards."""
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        yield work.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="screen-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    """Hardware and system that the figures come from, without the name of the machine."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    stripped = {key.strip(): value.strip() for key, value in fields.items()}
    flags = stripped.get("flags", "").split()
    return {
        "processor": stripped.get("model name", platform.processor()),
        "cores": cores(),
        "vector": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "devices": _devices(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
    }


def _devices() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False)  # noqa: S603
    return listed.stdout.split("\n")[:-1] if listed.returncode == 0 else []


def versions() -> dict[str, str]:
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def commit() -> str | None:
    """The checkout's commit, `-dirty` where it has changes."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    completed = subprocess.run(git, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)  # noqa: S603
    return completed.stdout.strip() or None


def finish(name: str, figures: Mapping[str, Any], tables: Sequence[Table], json_file: Path | None) -> None:
    """Print the tables; write name, machine, versions, commit and figures to the JSON file, if any."""
    stdout = Console()
    for table in tables:
        stdout.print(table)
    if json_file is not None:
        record = {"benchmark": name, "machine": machine(), "versions": versions(), "commit": commit(), **figures}
        json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        console.print(f"wrote {json_file}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table with the first column aligned left and all others right."""
    result = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        result.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        result.add_row(*("-" if value is None else str(value) for value in row))
    return result


def rounded(value: float | None) -> float | None:
    """Round to three significant digits, because more digits would differ in the next measurement."""
    return None if value is None else float(f"{value:.3g}")


def median(values: Sequence[float | None]) -> float | None:
    """The median of the measured values; None without any."""
    measured = [value for value in values if value is not None]
    return statistics.median(measured) if measured else None
