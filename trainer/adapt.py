"""`screen adapt`: from unlabelled captures of another microscope a new bundle that names its parent.

walk and look (adapt_archive) -> the microscope's own captures (adapt_majority) -> reference beside the parent's
(adapt_reference) -> captures to label, or the figure that labels give (adapt_labels) -> what engines must reproduce
(proof) -> bundle.json, last -> renamed into place

The network stays as it is: it brings every capture to its own stain target by itself (trainer/stain.py).
"""

import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.archive import walk_archive
from contract.bundle import MODEL, Bundle, Manifest, write_manifest
from contract.errors import BundleError, UsageError
from contract.novelty import Novelty, read_novelty
from trainer import adapt_labels, adapt_reference, report
from trainer.adapt_archive import Looked, Measures, look, measured, pixels_of
from trainer.adapt_labels import RANDOM, Labels, read_labels
from trainer.adapt_majority import Majority, majority
from trainer.graph import GraphRunner, Predictions
from trainer.progress import say
from trainer.proof import HIDDEN_CAPTURES, spread, write_expectations

KNOWN_ALREADY = 0.9
"""Share of the microscope's captures that count by the parent, from which on there is nothing to adapt. Measured on the
public set (docs/training.md): adapted to looks of which 99 % counted, Chula's captures fell from 80 % novel to 8 %."""
REPORT, PARENTS_REPORT = "report.html", "parent-report.html"


@dataclass(frozen=True)
class Wanted:
    """How to adapt: whether the parent's captures stay known, how many captures to draw for labelling, and the file of
    labels if a reviewer has filled it.
    """

    forget_parent: bool = False
    draw: int = 48
    labels: Path | None = None


@dataclass(frozen=True)
class _Served:
    """What a bundle makes of captures: its graph, what it knows, and what its manifest says."""

    runner: GraphRunner
    known: Novelty
    manifest: Manifest

    def counts(self, answers: Predictions, measures: Measures) -> NDArray[np.bool_]:
        """Which captures count for a case, [N], by their answers and quality measures."""
        novelty, quality = self.known.of(answers.embedding), self.manifest.reference["quality"]
        return adapt_reference.counting(self.manifest.case_policy, quality, novelty, measures)


def adapt(parent: Bundle, archive: Path, out: Path, wanted: Wanted) -> Bundle:
    """Write the bundle that `parent` becomes for the microscope of `archive` to `out`, and without labels the captures
    to label beside it.

    Raises UsageError, BundleError, ArchiveError, ArchiveUnavailable, DataError, ExportError; then nothing is written.
    """
    to_label = out.with_name(f"{out.name}.to-label.csv")
    before = _checked(parent, out, to_label, wanted)
    labels = None
    if wanted.labels is not None:
        labels = read_labels(wanted.labels, list(walk_archive(archive).captures), parent.manifest.labels)
    looked = look(parent, before.runner, archive)
    own = majority(looked, adapt_reference.blocks_of(parent.manifest, looked.answers.embedding.shape[1]))
    _refuse_known(parent, before, looked, own)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        shutil.copytree(parent.path, folder, dirs_exist_ok=True)
        after, of_other_patients = _with_reference(before, looked, own, folder, wanted)
        figures = _figures(before, after, labels, looked.root) if labels is not None else None
        provenance = _provenance(wanted, looked, own)
        provenance |= {"share_known": of_other_patients, "share_that_counts": _counting(before, after, looked)}
        provenance["accuracy"] = figures
        write_expectations(folder, after.manifest, _hidden(looked, own, after.manifest))
        _finish(parent, after.manifest, folder, out.name.removesuffix(".bundle"), provenance)
        folder.chmod(0o755)  # mkdtemp is for the owner only; a bundle is read by the worker's user
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if labels is None:
        _draw(after, looked, own, wanted.draw, to_label)
    return Bundle.open(out)


def _checked(parent: Bundle, out: Path, to_label: Path, wanted: Wanted) -> _Served:
    """The parent as it serves; before any work."""
    for taken in (out, *(() if wanted.labels else (to_label,))):
        if taken.exists():
            raise UsageError(f"{taken} is there already; name another folder with --out")
    known = read_novelty(parent)
    if known is None or "quality" not in parent.manifest.reference:
        raise BundleError(
            f"bundle {parent.path} has no reference for novelty and quality, so it cannot tell what is new to it; take "
            "one of the captures that it was trained on first (`screen reference`)"
        )
    return _Served(GraphRunner(parent.path / MODEL, parent.manifest.outputs), known, parent.manifest)


def _refuse_known(parent: Bundle, before: _Served, looked: Looked, own: Majority) -> None:
    """Raise UsageError where most of the microscope's captures count by the parent already: the reference of few and
    very different looks is wide, and would make known what is novel to the parent.
    """
    share = float(before.counts(looked.answers, looked.measures)[own.own].mean())
    if share >= KNOWN_ALREADY:
        raise UsageError(
            f"{share:.0%} of these captures count by {parent.manifest.name} already: it knows this microscope, and "
            f"adapting would only make it less careful; screen with {parent.path} as it is"
        )


def _hidden(looked: Looked, own: Majority, manifest: Manifest) -> NDArray[np.uint8]:
    """Captures of the microscope that every engine must decide alike, spread over what they are called and patients."""
    rows = np.flatnonzero(own.own)
    called, patients = looked.answers.probabilities.argmax(axis=1)[rows], looked.patient_numbers()[rows]
    chosen = spread(rows, called.tolist(), patients.tolist(), HIDDEN_CAPTURES, seed=0)
    return np.concatenate(list(pixels_of(looked.root, [looked.captures[row] for row in chosen], manifest.image)))


def _with_reference(
    before: _Served, looked: Looked, own: Majority, folder: Path, wanted: Wanted
) -> tuple[_Served, float]:
    """The bundle in `folder` with its new reference, and which share of the archive's own captures a reference of other
    patients knows.
    """
    rows, manifest = own.own, before.manifest
    taken = adapt_reference.take(
        folder,
        manifest,
        None if wanted.forget_parent else before.known,
        looked.answers.embedding[rows],
        1 - looked.answers.probabilities[rows, manifest.benign_index],
        {name: values[rows] for name, values in looked.measures.items()},
        looked.patient_numbers()[rows],
    )
    runner = GraphRunner(folder / MODEL, manifest.outputs)
    served = _Served(runner, taken.known, manifest.model_copy(update={"reference": taken.manifest}))
    return served, taken.of_other_patients


def _figures(before: _Served, after: _Served, labels: Labels, root: bytes) -> dict[str, Any]:
    """What the labels say of the parent and of the adapted bundle, on the same captures."""
    found = {}
    pixels = np.concatenate(list(pixels_of(root, labels.captures, before.manifest.image)))
    measures = measured(pixels)
    for name, served in (("parent", before), ("adapted", after)):
        answers = served.runner.predict(pixels)
        counts = served.counts(answers, measures)
        found[name] = adapt_labels.figures(labels, answers.probabilities, counts, before.manifest.benign_index)
    return found


def _draw(after: _Served, looked: Looked, own: Majority, count: int, to_label: Path) -> None:
    """Write the captures that a reviewer shall label, of the microscope's own that count."""
    counts = own.own & after.counts(looked.answers, looked.measures)
    patients = looked.patient_numbers()
    drawn = adapt_labels.draw(count, counts, looked.answers.probabilities, own.space, patients, after.manifest)
    to_label.write_text(adapt_labels.to_csv(looked.captures, drawn), encoding="utf-8")
    say(f"{len(drawn.random) + len(drawn.border)} captures to label: fill the column label of {to_label},")
    say("then call again with --labels and another --out for a figure")


def _provenance(wanted: Wanted, looked: Looked, own: Majority) -> dict[str, Any]:
    """What the manifest says of how it was adapted; counts alone, no names."""
    patients = looked.patient_numbers()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parents_captures_known": not wanted.forget_parent,
        "archive": {"captures": looked.found, "patients": looked.patients},
        "looked_at": len(looked.captures) + looked.unreadable,
        "used": {"captures": int(own.own.sum()), "patients": len(np.unique(patients[own.own]))},
        "left_out": {
            "unreadable": looked.unreadable,
            "unlike_smears": own.unlike_smears,
            "apart_from_the_majority": own.apart,
            "empty_or_out_of_focus": own.poor,
        },
    }


def _counting(before: _Served, after: _Served, looked: Looked) -> dict[str, float]:
    """Shares of all readable captures that were looked at that count, by the parent and by the new bundle."""
    served = {"parent": before, "adapted": after}
    return {name: float(one.counts(looked.answers, looked.measures).mean()) for name, one in served.items()}


def _finish(parent: Bundle, manifest: Manifest, folder: Path, name: str, adaptation: dict[str, Any]) -> None:
    """Write report and manifest into `folder`, and say what was done."""
    sentences = _sentences(parent, adaptation)
    notice = " ".join([*([manifest.notice] if manifest.notice else []), sentences[0]])
    of_parent = {"name": manifest.name, "digest": parent.digest}
    if "parent" in manifest.provenance:
        of_parent["parent"] = manifest.provenance["parent"]
    provenance = {**manifest.provenance, "parent": of_parent, "adaptation": adaptation}
    complete = manifest.model_copy(update={"name": name, "notice": notice, "provenance": provenance})
    if (folder / REPORT).exists():
        (folder / REPORT).rename(folder / PARENTS_REPORT)
    has_parents = (folder / PARENTS_REPORT).exists()
    report.render(
        "adapted.html", folder / REPORT, {}, m=complete, a=adaptation, parent=of_parent, sentences=sentences,
        parents_report=PARENTS_REPORT if has_parents else None,
    )  # fmt: skip
    write_manifest(folder, complete)
    for sentence in sentences:
        say(sentence)


def _sentences(parent: Bundle, adaptation: dict[str, Any]) -> list[str]:
    """What was done and what cannot be known; the first is the bundle's notice."""
    used, left_out, figures = adaptation["used"], adaptation["left_out"], adaptation["accuracy"]
    head = f"Adapted without labels to another microscope from the bundle {parent.manifest.name} ({parent.digest[:12]})"
    if figures is None:
        first = f"{head}: how accurate it is there is unknown."
    else:
        drawn = figures["adapted"][RANDOM]["accuracy"]
        first = (
            f"{head}: of {drawn['of']} captures there, drawn at random and labelled, {report.rate(drawn)} are right."
        )
    counting = adaptation["share_that_counts"]
    found = [
        first,
        f"Its reference is that of {used['captures']} captures of {used['patients']} patients; left out were "
        + ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in left_out.items())
        + ".",
        f"Of all readable captures {counting['adapted']:.1%} count now ({counting['parent']:.1%} by the "
        "parent); of the reference's own "
        f"{adaptation['share_known']:.1%} are known by one taken of other patients.",
    ]
    if figures is not None:
        found += _compared(figures)
    return found


def _compared(figures: dict[str, Any]) -> list[str]:
    """Accuracy of both bundles, in sentences."""
    said = []
    for name, of in figures.items():
        drawn, near = of[RANDOM], of[adapt_labels.BORDER]
        said.append(
            f"{name}: captures drawn at random {report.rate(drawn['accuracy'])} right, ALL or benign "
            f"{report.rate(drawn['all_versus_benign'])}; {drawn['counting']['accuracy']['of']} of them count, of those "
            f"{report.rate(drawn['counting']['accuracy'])}. Near the border, which is pessimistic: "
            f"{report.rate(near['accuracy'])}."
        )
    return said
