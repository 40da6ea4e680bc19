"""`screen evaluate`: scores any bundle on any labelled captures with its exported graph; nothing is fitted."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.bundle import MODEL, Bundle
from contract.errors import DataError
from contract.files import private_folder, write_whole
from contract.novelty import read_novelty
from contract.tables import read_table
from trainer import assess, marking, report, shortcuts
from trainer.config import DataTable
from trainer.data import LabelledData
from trainer.export import SPLIT_FILE
from trainer.graph import GraphRunner
from trainer.run import decode_all, read_labelled
from trainer.splits import given_names
from trainer.traits import clusters, near_duplicates, traits_of

FILE = "evaluation.json"


def evaluate(
    bundle: Bundle, root: Path, *, cache: Path, split: Path | None, only: str, audit_captures: int
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Figures of `bundle` on DATA, and their pictures. With `split`, only for captures whose split in it is `only`.

    Raises DataError for labels that the bundle does not know.
    """
    manifest = bundle.manifest
    table = DataTable(labels=manifest.labels, benign_label=manifest.benign_label)
    data = read_labelled(root, table, for_training=False)
    given = None if split is None else np.asarray(given_names(split, data))  # its faults are told before any work
    decoded = decode_all(data, manifest.image, cache)
    rows = np.setdiff1d(np.arange(len(data.captures)), list(decoded.unreadable))
    if given is not None:
        rows = np.intersect1d(rows, np.flatnonzero(given == only))
        if not len(rows):
            raise DataError(f"{split}: no readable capture has the split {only!r}; name another with --only")
    traits = traits_of(decoded.pixels)
    groups = np.full(len(data.captures), -1, np.int64)
    groups[rows] = clusters(len(rows), near_duplicates(traits.hashes[rows], table.near_duplicate_bits))
    runner = GraphRunner(bundle.read(MODEL), manifest.outputs)
    scored = assess.score(runner, data, manifest.benign_label, decoded.pixels, rows, groups, "scoring")
    scored = marking.marked(scored, read_novelty(bundle), manifest.reference.get("quality", {}))
    temperature = manifest.calibration.temperature
    sites = [data.captures[i].site for i in rows]
    measured = assess.metrics(scored, temperature, manifest.case_policy, sites)
    alike = np.unique(np.asarray(scored.of.groups), return_inverse=True)[1]
    measured["shortcuts"] = shortcuts.cross_validated(traits.of(rows), scored.of.targets, alike)
    if audit_captures:
        measured["robustness"] = assess.robustness(runner, scored, audit_captures)
    result = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": {
            "name": manifest.name,
            "digest": bundle.digest,
            "notice": manifest.notice,
            "labels": manifest.labels,
            "benign_label": manifest.benign_label,
        },
        "data": {
            "digest": data.digest,
            "captures": len(rows),
            "unreadable": len(decoded.unreadable),
            "split": only if split is not None else None,
            "trained_on": trained_on(bundle, data, rows),
        },
        "metrics": measured,
    }
    return result, assess.draw(scored, measured, temperature, manifest.case_policy)


def trained_on(bundle: Bundle, data: LabelledData, rows: NDArray[np.int64]) -> int | None:
    """How many captures, by their bytes, the bundle was trained or tuned on; None if the bundle does not say."""
    if SPLIT_FILE not in bundle.contents:
        return None
    content = bundle.read(SPLIT_FILE)
    listed = read_table(bundle.path / SPLIT_FILE, needed=("split",), beside=("sha256",), content=content)
    if "sha256" not in listed.columns:
        return None
    seen = {row["sha256"] for row in listed.rows if row["split"] in ("train", "validation")}
    return sum(data.sha256[i] in seen for i in rows)


def write(out: Path, result: dict[str, Any], figures: dict[str, bytes]) -> None:
    """Write evaluation.json, report.html and figures/ into the folder `out`."""
    private_folder(out)
    write_whole(out / FILE, json.dumps(result, indent=1) + "\n")
    report.write_figures(out, figures)
    report.render("evaluation.html", out / "report.html", figures, e=result)
