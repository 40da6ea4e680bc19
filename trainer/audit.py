"""`screen data audit`: what a data set holds, and what could give its labels away without a look at a cell."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import DataError
from contract.imaging import ImageSpec
from trainer import pictures, shortcuts
from trainer.cache import decoded
from trainer.data import LabelledData, data_digests, find_captures
from trainer.progress import bar, say
from trainer.traits import Traits, clusters, near_duplicates, traits_of

SPEC = ImageSpec(size=256, resampling="bilinear", min_side=1)
"""The audit looks at captures of this size, independent of the size that a recipe will train at."""
SHOWN = 20
"""How many duplicates and unreadable files are named; all are counted."""


def audit(root: Path, cache: Path, bits: int = 4) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Counts, sizes, unreadable files, duplicates, scale bars, colour and sharpness by label, shortcuts; and figures.

    Raises DataError if there are no labelled captures under `root`.
    """
    found = find_captures(root)
    for warning in found.warnings:
        say(f"warning: {warning}")
    captures, patients_known = found.captures, found.patients_known
    labels = sorted({capture.label for capture in captures})
    sha256, digest = data_digests(root, captures)
    data = LabelledData(root, tuple(labels), captures, patients_known, sha256, digest)
    with bar("decoding", len(captures)) as progress:
        cached = decoded(data, SPEC, cache, progress.advance, refuse_many=False)
    readable = np.setdiff1d(np.arange(len(captures)), list(cached.unreadable))
    if not len(readable):
        raise DataError(f"{root}: none of {len(captures)} files can be decoded")
    traits = traits_of(cached.pixels, readable.tolist())
    pairs = readable[near_duplicates(traits.hashes, bits)]
    exact = _exact(data)
    groups = _groups(data, readable, pairs)
    targets = data.targets()[readable]
    figures = {"samples": pictures.samples(cached.pixels, readable, data.targets(), labels)}
    return {
        "root": str(root),
        "digest": digest,
        "captures": len(captures),
        "patients": len({capture.patient for capture in captures}) if patients_known else None,
        "labels": {label: _of_label(label, data, readable, traits) for label in labels},
        "sizes": [
            {"width": width, "height": height, "captures": count}
            for (width, height), count in Counter(map(tuple, cached.sizes[readable].tolist())).most_common()
        ],
        "unreadable": {
            "count": len(cached.unreadable),
            "first": [{"path": captures[i].path, "why": why} for i, why in sorted(cached.unreadable.items())[:SHOWN]],
        },
        "exact_duplicates": _duplicates(exact, data),
        "near_duplicates": _duplicates(pairs, data) | {"bits": bits, "captures": len(np.unique(pairs))},
        "scale_bars": int(sum(scale_bar is not None for scale_bar in traits.bars)),
        "shortcuts": {
            "folds": shortcuts.FOLDS,
            "grouped_by": "patient" if patients_known else "near-duplicates",
            "chance": float(np.bincount(targets).max() / len(targets)),
            "accuracy": shortcuts.cross_validated(traits, targets, groups),
        },
    }, figures


def _exact(data: LabelledData) -> NDArray[np.int64]:
    """Pairs of captures with the same bytes: each capture with the first one that has these bytes."""
    first: dict[str, int] = {}
    pairs = [(first[digest], i) for i, digest in enumerate(data.sha256) if first.setdefault(digest, i) != i]
    return np.asarray(pairs, np.int64).reshape(-1, 2)


def _groups(data: LabelledData, readable: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    if data.patients_known:
        return np.unique([data.captures[i].patient for i in readable], return_inverse=True)[1]
    return clusters(len(data.captures), pairs)[readable]


def _duplicates(pairs: NDArray[np.int64], data: LabelledData) -> dict[str, Any]:
    captures = data.captures
    conflicts = [(a, b) for a, b in pairs.tolist() if captures[a].label != captures[b].label]
    across = [(a, b) for a, b in pairs.tolist() if captures[a].patient != captures[b].patient]
    return {
        "pairs": len(pairs),
        "with_different_labels": len(conflicts),
        "of_different_patients": len(across) if data.patients_known else None,
        "by_label": dict(Counter(captures[a].label for a, _ in pairs.tolist())),
        "first": [[captures[a].path, captures[b].path] for a, b in (conflicts or pairs.tolist())[:SHOWN]],
    }


def _of_label(label: str, data: LabelledData, readable: NDArray[np.int64], traits: Traits) -> dict[str, Any]:
    labelled = [capture for capture in data.captures if capture.label == label]
    places = [place for place, i in enumerate(readable) if data.captures[i].label == label]
    result: dict[str, Any] = {
        "captures": len(labelled),
        "patients": len({capture.patient for capture in labelled}) if data.patients_known else None,
        "readable": len(places),
    }
    if places:
        colour, sharpness = traits.colour[places], traits.sharpness[places]
        result |= {
            "mean_rgb": colour[:, :3].mean(axis=0).round(1).tolist(),
            "deviation_rgb": colour[:, 3:].mean(axis=0).round(1).tolist(),
            "background_rgb": traits.background[places].mean(axis=0).round(1).tolist(),
            "sharpness_median": float(np.median(sharpness)),
            "sharpness_quartiles": np.percentile(sharpness, [25, 75]).round(1).tolist(),
            "scale_bars": sum(traits.bars[place] is not None for place in places),
        }
    return result


def warnings(audited: dict[str, Any]) -> list[str]:
    """What people who train on this data should know first, in sentences."""
    sentences = []
    if count := audited["unreadable"]["count"]:
        sentences.append(f"{count} of {audited['captures']} files cannot be decoded.")
    if pairs := audited["exact_duplicates"]["pairs"]:
        sentences.append(f"{pairs} captures have exactly the same bytes as another.")
    for kind in ("exact_duplicates", "near_duplicates"):
        if conflicts := audited[kind]["with_different_labels"]:
            sentences.append(
                f"{conflicts} pairs of {kind.replace('_', ' ')} have different labels: one of each is wrong."
            )
        if across := audited[kind]["of_different_patients"]:
            sentences.append(
                f"{across} pairs of {kind.replace('_', ' ')} are of different patients: have they been mixed up?"
            )
    if count := audited["near_duplicates"]["captures"]:
        sentences.append(f"{count} captures have a near-duplicate: a random split would put some on both sides.")
    if audited["patients"] is None:
        sentences.append("Patients are unknown: no split can keep them apart.")
    shares = {label: row["scale_bars"] / row["readable"] for label, row in audited["labels"].items() if row["readable"]}
    if shares and max(shares.values()) - min(shares.values()) > 0.1:
        shown = ", ".join(f"{label} {share:.0%}" for label, share in shares.items())
        sentences.append(f"Scale bars are not equally frequent: {shown}.")
    chance = audited["shortcuts"]["chance"]
    for name, accuracy in audited["shortcuts"]["accuracy"].items():
        if accuracy > chance + 0.15:
            sentences.append(
                f"The label can be guessed without looking at a cell: {name} reaches {accuracy:.1%}, while always "
                f"naming the most frequent label gives {chance:.1%}."
            )
    return sentences
