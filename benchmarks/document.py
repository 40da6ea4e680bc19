"""Makes docs/benchmarks.md from the figures in benchmarks/results, so that no number in it is typed by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from docs.markdown import markdown

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
Row = Sequence[object]


@click.command()
def command() -> None:
    """Write docs/benchmarks.md."""
    PAGE.write_text(page(), encoding="utf-8")
    click.echo(PAGE)


def page() -> str:
    """The text of the page, from all existing results."""
    parts = [INTRODUCTION]
    for name, section in SECTIONS.items():
        file = RESULTS / f"{name}.json"
        if file.exists():
            record = json.loads(file.read_text(encoding="utf-8"))
            parts.append(section(record) + "\n" + _source(name, record))
    return "\n".join([*parts, NOT_MEASURED])


def _source(name: str, record: dict[str, Any]) -> str:
    machine = record["machine"]
    devices = ", ".join(machine["devices"]) or "no GPU"
    vector = ", ".join(machine["vector"])
    return (
        f"*`python -m benchmarks {name}`: {machine['processor']}, {machine['cores']} cores ({vector}), "
        f"{machine['memory_gib']} GiB, {devices}, Python {machine['python']}; commit {record['commit']}; versions in "
        f"`benchmarks/results/{name}.json`.*\n"
    )


def _table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    return markdown(columns, (["–" if value is None else _shown(value) for value in row] for row in rows)) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _throughput(record: dict[str, Any]) -> str:
    names = {
        "engine": f"engine alone ({record['engine_used'].split(' on ')[0]}, batches of {record['batch_size']})",
        "decode": "decoding alone, all cores",
        "ceiling": "ceiling: what both allow together",
        "pipeline": "pipeline, one process",
        "system": f"whole system: submit to last row, Redis, Celery, {record['database']}",
    }
    peers = {
        "fastai_predict": "fastai `learn.predict` in a loop (the thesis's way)",
        "fastai_batch": "fastai `learn.get_preds`",
        "torch_loader": "timm and torch, DataLoader",
        "torch_compile": "the same with torch.compile",
    }
    rows: list[Row] = [
        (text, record[name], f"{record[name] / record['ceiling']:.0%}", None) for name, text in names.items()
    ]
    for name, text in peers.items():
        rate, ratio = record["peers"][name], record["ratios"][f"system_to_{name}"]
        rows.append((text, rate, f"{rate / record['ceiling']:.0%}" if rate else None, f"{ratio:g}x" if ratio else None))
    seconds, close = record["worker_seconds_per_capture"], record["close_calls"]
    close_calls_note = (
        f" {close:.1%} of the captures are close calls: the engine computes them again in float32, the others do not."
        if close is not None
        else ""
    )
    milliseconds = ", ".join(
        f"{name} {1e3 * seconds[name]:.2g}"
        for name in ("read", "decode", "quality", "wait", "infer")
        if name in seconds
    )
    return (
        f"## Throughput\n\nEfficientNet-B3 at 300 px on {record['captures']:,} drawings of 1024x768 (JPEG), the "
        f"same weights everywhere; peers on {record['peer_captures']}. Medians of {record['repetitions']} interleaved "
        f"repetitions; ratios are medians of the ratios within a repetition.{close_calls_note}\n\n"
        + _table(("", "captures/s", "of the ceiling", "the system is so many times as fast"), rows)
        + f"\nSystem to ceiling: **{record['ratios']['system_to_ceiling']:g}**. Milliseconds per capture in the worker:"
        f" {milliseconds} (read and decode are sums over threads).\n"
    )


def _engines(record: dict[str, Any]) -> str:
    sizes = list(next(iter(record["rates"].values())))
    base = record["best"].get("torch float32")
    rows: list[Row] = [
        (name, *rates.values(), f"{record['best'][name] / base:.2g}x" if base else None)
        for name, rates in record["rates"].items()
    ]
    reasons = "".join(f"- not run: {name}: {reason}\n" for name, reason in record["not_run"].items())
    return (
        "## Engines\n\nCaptures per second by size of batch, decoded ones, the same network.\n\n"
        + _table(("", *sizes, "best, to torch float32"), rows)
        + (f"\n{reasons}" if reasons else "")
    )


def _decode(record: dict[str, Any]) -> str:
    parts = ["## Decoding\n\nOne core; differences in grey levels to Pillow's full decoding and antialiasing resize.\n"]
    for kind, ways in record["formats"].items():
        first = next(iter(ways.values()))["captures_per_s"]
        rows: list[Row] = [
            (name, row["captures_per_s"], f"{row['captures_per_s'] / first:.2g}x", row["difference"])
            for name, row in ways.items()
        ]
        parts.append(f"\n{kind} px:\n\n" + _table(("", "captures/s", "to Pillow", "grey levels apart"), rows))
    if probabilities := record.get("probabilities"):
        shown: list[Row] = [
            (name, f"{row['same_label']:.1%}", row["largest"], row["mean"])
            for name, row in probabilities["ways"].items()
        ]
        parts.append(
            f"\nWhat becomes of the probabilities of bundle `{probabilities['bundle']}` "
            f"({probabilities['side']} px, {probabilities['captures']} captures, float32) when its captures are "
            "decoded otherwise than it was trained with; a bundle states its way, and trainer and worker share it:\n\n"
            + _table(("", "same label", "largest difference", "mean"), shown)
        )
    return "".join(parts)


def _scale(record: dict[str, Any]) -> str:
    columns = {
        "captures": "captures", "submit_per_s": "submit, captures/s", "worker_per_s": "worker, captures/s",
        "ms_per_capture": "ms per capture", "overhead_ms": "of it overhead", "database_ms": "database thread, ms",
        "submit_mib": "submit, MiB", "worker_mib": "worker, MiB", "database_bytes_per_capture": "bytes per capture",
    }  # fmt: skip
    parts = [
        "## Scale\n\nTiny files and an engine that costs nothing: what is left is the system's own. Overhead is what "
        "one worker takes beyond the pipeline alone; the database's thread works beside it, and on two cores waits for "
        "them. Submit includes the start of the command, about a second. Memory is the peak of the largest process.\n"
    ]
    for kind in dict.fromkeys(row["database"] for row in record["rows"]):
        rows: list[Row] = [[row[name] for name in columns] for row in record["rows"] if row["database"] == kind]
        flat = record["flat"][kind]
        parts.append(f"\n{kind}:\n\n" + _table(list(columns.values()), rows))
        if flat["times"]:
            parts.append(f"\nA capture of {flat['largest']:,} takes {flat['times']:g} times one of 10,000.\n")
    return "".join(parts)


def _age(record: dict[str, Any]) -> str:
    head = ("", "first tenth, ms", "last tenth, ms", "times")
    parts = [
        "## Age\n\nNight after night ten patients of one archive get one capture more. A night screens the new ones, "
        "and copies the rows of all others of these patients, because a result depends on all captures of the patient. "
        "Then: one capture for each of many patients, in chunks of 256.\n"
    ]
    for row in record["rows"]:
        nights, steady, crowd = row["nights"], row["steady"], row["patients"]
        steps: list[Row] = [(name, *nights[name].values()) for name in ("submit", "finish")]
        for name in ("submit", "finish"):
            steps += [(f"{name}: {part}", *times.values()) for part, times in nights["parts"][name].items()]
        cases: list[Row] = [(name, *times.values()) for name, times in crowd["ms_per_case"].items()]
        parts.append(
            f"\n{row['database']}, {nights['nights']} nights: {nights['captures']:,} rows for {nights['files']:,} "
            f"files, {nights['bytes_per_capture']:,} bytes each; {nights['ms_per_unchanged_capture']:g} ms for each "
            "unchanged capture of a patient with a new one:\n\n"
            + _table(head, steps)
            + f"\n{row['database']}, as many nights, but of each patient the oldest capture goes:\n\n"
            + _table(head, [(name, *steady[name].values()) for name in ("submit", "finish")])
            + f"\n{row['database']}, finishing one of {crowd['patients']:,} patients, ms per case:\n\n"
            + _table(head, cases)
        )
    return "".join(parts)


def _workers(record: dict[str, Any]) -> str:
    parts = [
        f"## Workers\n\nEach worker's engine sleeps {record['milliseconds']:g} ms per capture, as a device of its own "
        "would; all share two cores, Redis and one database.\n"
    ]
    for kind in dict.fromkeys(row["database"] for row in record["rows"]):
        rows: list[Row] = [
            (row["workers"], row["captures_per_s"], f"{row['of_the_engines']:.0%}", row["speed_up_per_worker"])
            for row in record["rows"]
            if row["database"] == kind
        ]
        head = ("workers", "captures/s", "of what the engines allow", "speed-up per worker")
        parts.append(f"\n{kind}:\n\n" + _table(head, rows))
    return "".join(parts)


def _novelty(record: dict[str, Any]) -> str:
    rows: list[Row] = [
        (name, row["captures"], *(f"{row[key]:.1%}" for key in ("novel", "first", "last")), row["median"],
         f"{row['excluded']:.1%}")
        for name, row in record["sets"].items()
    ]  # fmt: skip
    head = ("", "captures", "novel", "by the first stage alone", "by the last alone", "median novelty", "excluded")
    return (
        f"## Novelty\n\nWhat bundle `{record['bundle']}` ({record['engine']}), which knows only drawings, calls novel: "
        "wanted are at most 2 % of drawings of patients that it has not seen, and at least 95 % of everything else. "
        "The network's last stage, which the literature looks at, maps whatever it is shown to a class that it knows. "
        "Excluded are captures out of focus and those without a nucleated cell, too.\n\n" + _table(head, rows)
    )


def _looks(record: dict[str, Any]) -> str:
    rows: list[Row] = [
        [value if isinstance(value, str) else f"{value:.1%}" for value in row.values()] for row in record["rows"]
    ]
    return (
        f"## Unseen looks\n\nHeads fitted by logistic regression on frozen ImageNet features of "
        f"tf_efficientnet_lite2 at 224 px, {record['captures']:,} labelled captures of the public ALL set, five folds: "
        "by chance, and with whole looks held out, two draws of the folds (first / second). Changed captures: 400, "
        "first draw. What it means, and what other recipes reach: [model.md](model.md).\n\n"
        + _table(list(record["rows"][0]), rows)
    )


def _cellwise(record: dict[str, Any]) -> str:
    return (
        f"## Cells one by one\n\nFrozen ImageNet features of tf_efficientnet_lite2 and heads fitted by logistic "
        f"regression: on whole captures at 224 px, and on their {record['cells']:,} cells at 112 px, each called by "
        f"itself. {record['captures']:,} labelled captures of the public ALL set; whole looks held out, five folds, "
        f"two draws of them (first / second). {record['without']} captures have no cell that was found, and count as "
        "wrong where cells call alone.\n\n"
        + _table(list(record["rows"][0]), [list(row.values()) for row in record["rows"]])
    )


def _cells(record: dict[str, Any]) -> str:
    names = {
        "true": "true cells", "found": "found", "false": "false among them", "false_per_capture": "false per capture",
        "count": "found / true", "graph": "graph and library (IoU)",
    }  # fmt: skip
    rows = [(name, row["captures"], *(row[key] for key in names)) for name, row in record["sets"].items()]
    cost = ", ".join(f"{name} {share:g}" for name, share in record["cost"].items())
    return (
        f"## Nucleated cells\n\nWhat `contract.cells` finds at {record['size']} px. *Boxes*: leukocytes of BCCD; "
        "*segmented* is the public ALL set with its own masks. Those of Benign miss dark and touching cells and take "
        "rims of erythrocytes for cells; those of Pro are useless. *Drawings* know their cells; smudge cells "
        "count as false.\n\n"
        + _table(("set", "captures", *names.values()), rows)
        + f"\nTime of one core, as a share of decoding a 1024x768 JPEG: {cost}.\n"
    )


SECTIONS = {
    "throughput": _throughput,
    "engines": _engines,
    "decode": _decode,
    "scale": _scale,
    "age": _age,
    "workers": _workers,
    "novelty": _novelty,
    "looks": _looks,
    "cells": _cells,
    "cellwise": _cellwise,
}
INTRODUCTION = """# Benchmarks

Made by `python -m benchmarks document` from the figures in `benchmarks/results`; a test compares. Every figure stands
beside what it is compared to, measured in the same run on the same machine. These machines are shared and noisy:
believe ratios, and differences of more than a tenth.
"""
NOT_MEASURED = """## Not measured

No NVIDIA device has been at hand. TensorRT's plans are built and inspected in the tests, for sm80 and sm86, and what
runs them is tested on a fake; no kernel of it has run, and no rate is known. Decoding on the GPU is not built. The
library `tensorrt`, for data-centre devices, has not been installed.
"""
