"""`screen adapt`: makes a new bundle, which names its parent, from unlabelled captures of another microscope.

walk and look (adapt_archive) -> the microscope's own captures (adapt_majority) -> reference beside the parent's
(adapt_reference) -> captures to label, or the figure that labels give (adapt_labels) -> what engines must reproduce
(proof) -> bundle.json, last -> renamed into place

The network stays as it is: it brings every capture to its own stain target by itself (trainer/stain.py).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.archive import walk_archive
from contract.bundle import MODEL, Bundle, Manifest, write_manifest
from contract.errors import BundleError, UsageError
from contract.files import whole_folder, write_whole
from contract.novelty import Novelty, read_novelty
from contract.predictions import Predictions
from trainer import adapt_labels, adapt_reference, report
from trainer.adapt_archive import Looked, Measures, look, measured, pixels_of
from trainer.adapt_labels import RANDOM, Labels, read_labels
from trainer.adapt_majority import Majority, majority
from trainer.graph import GraphRunner
from trainer.progress import say
from trainer.proof import HIDDEN_CAPTURES, spread, write_expectations

KNOWN_ALREADY = 0.9
"""If at least this share of the microscope's captures counts by the parent, there is nothing to adapt. Measured on the
public set (docs/training.md): 99 % of some looks counted; after adapting to them, only 8 % of Chula's captures were
novel, before it 80 %."""
REPORT, PARENTS_REPORT = "report.html", "parent-report.html"


@dataclass(frozen=True)
class Wanted:
    """How to adapt: whether to forget the parent's captures, how many captures to draw for labelling, the file of
    labels if a reviewer has filled it, and how many levels below the archive its patients' folders lie.
    """

    forget_parent: bool = False
    draw: int = 48
    labels: Path | None = None
    patient_depth: int = 1


@dataclass(frozen=True)
class _Served:
    """A bundle ready to judge captures: its graph, its novelty reference, and its manifest."""

    runner: GraphRunner
    reference: Novelty
    manifest: Manifest

    def counts(self, answers: Predictions, measures: Measures) -> NDArray[np.bool_]:
        """Which captures count for a case, [N], judged by the graph's answers and the quality measures."""
        novelty, quality = self.reference.of(answers.embedding), self.manifest.reference["quality"]
        return adapt_reference.counting(self.manifest.case_policy, quality, novelty, measures)


def adapt(parent: Bundle, archive: Path, out: Path, options: Wanted) -> Bundle:
    """Adapt `parent` to the microscope of `archive` and write the new bundle to `out`. Without labels, also write the
    list of captures to label beside it.

    Raises UsageError, BundleError, ArchiveError, ArchiveUnavailable, DataError, ExportError; then nothing is written.
    """
    to_label = out.with_name(f"{out.name}.to-label.csv")
    before = _checked(parent, out, to_label, options)
    walked = walk_archive(archive, options.patient_depth)
    labels = None
    if options.labels is not None:
        labels = read_labels(options.labels, list(walked.captures), parent.manifest.labels)
    sample = look(parent, before.runner, walked)
    selection = majority(sample, adapt_reference.blocks_of(parent.manifest, sample.answers.embedding.shape[1]))
    _refuse_known(parent, before, sample, selection)
    with whole_folder(out) as folder:
        parent.copy_to(folder)
        after, share_known = _with_reference(before, sample, selection, folder, options)
        figures = _figures(before, after, labels, sample.root) if labels is not None else None
        provenance = _provenance(options, sample, selection)
        provenance |= {"share_known": share_known, "share_that_counts": _counting(before, after, sample)}
        provenance["accuracy"] = figures
        write_expectations(folder, after.manifest, _hidden(sample, selection, after.manifest))
        _finish(parent, after.manifest, folder, out.name.removesuffix(".bundle"), provenance)
    if labels is None:
        _draw(after, sample, selection, options.draw, to_label)
    return Bundle.open(out)


def _checked(parent: Bundle, out: Path, to_label: Path, options: Wanted) -> _Served:
    """The parent, ready to judge captures; refuse what cannot be adapted before any work is done."""
    for target in (out, *(() if options.labels else (to_label,))):
        if target.exists():
            raise UsageError(f"{target} is there already; name another folder with --out")
    novelty = read_novelty(parent)
    if novelty is None or "quality" not in parent.manifest.reference:
        raise BundleError(
            f"bundle {parent.path} has no reference for novelty and quality, so it cannot tell what is new to it; "
            "first take one from the captures that it was trained on (`screen reference`)"
        )
    return _Served(GraphRunner(parent.read(MODEL), parent.manifest.outputs), novelty, parent.manifest)


def _refuse_known(parent: Bundle, before: _Served, sample: Looked, selection: Majority) -> None:
    """Raise UsageError if most of the microscope's captures with nucleated cells already count by the parent. A
    reference of few and very different looks is wide: the bundle would then know much that is novel to the parent.
    """
    share = float(before.counts(sample.answers, sample.measures)[selection.own & sample.with_cells].mean())
    if share >= KNOWN_ALREADY:
        raise UsageError(
            f"{share:.0%} of these captures with a nucleated cell count by {parent.manifest.name} already: it knows "
            f"this microscope, and adapting would only make it less careful; screen with {parent.path} as it is"
        )


def _hidden(sample: Looked, selection: Majority, manifest: Manifest) -> NDArray[np.uint8]:
    """Captures of the microscope that every engine must decide alike, spread over predicted labels and patients."""
    rows = np.flatnonzero(selection.own)
    called, patients = sample.answers.probabilities.argmax(axis=1)[rows], sample.patient_numbers()[rows]
    chosen = spread(rows, called.tolist(), patients.tolist(), HIDDEN_CAPTURES, seed=0)
    return np.concatenate(list(pixels_of(sample.root, [sample.captures[row] for row in chosen], manifest.image)))


def _with_reference(
    before: _Served, sample: Looked, selection: Majority, folder: Path, options: Wanted
) -> tuple[_Served, float]:
    """The bundle in `folder` with its new reference, and the share of the microscope's captures that a reference of
    other patients knows.
    """
    rows, manifest = selection.own, before.manifest
    reference = adapt_reference.take(
        folder,
        manifest,
        None if options.forget_parent else before.reference,
        sample.answers.embedding[rows],
        1 - sample.answers.probabilities[rows, manifest.benign_index],
        {name: values[rows] for name, values in sample.measures.items()},
        sample.patient_numbers()[rows],
    )
    runner = GraphRunner(folder / MODEL, manifest.outputs)
    served = _Served(runner, reference.known, manifest.model_copy(update={"reference": reference.manifest}))
    return served, reference.of_other_patients


def _figures(before: _Served, after: _Served, labels: Labels, root: bytes) -> dict[str, Any]:
    """The accuracy of the parent and of the adapted bundle by the labels, on the same captures."""
    by_bundle = {}
    pixels = np.concatenate(list(pixels_of(root, labels.captures, before.manifest.image)))
    measures = measured(pixels)
    for name, served in (("parent", before), ("adapted", after)):
        answers = served.runner.predict(pixels)
        counts = served.counts(answers, measures)
        by_bundle[name] = adapt_labels.figures(labels, answers.probabilities, counts, before.manifest.benign_index)
    return by_bundle


def _draw(after: _Served, sample: Looked, selection: Majority, count: int, to_label: Path) -> None:
    """Write the list of captures that a reviewer is asked to label: some of the microscope's captures that count."""
    counts = selection.own & after.counts(sample.answers, sample.measures)
    patients = sample.patient_numbers()
    drawn = adapt_labels.draw(count, counts, sample.answers.probabilities, selection.space, patients, after.manifest)
    write_whole(to_label, adapt_labels.to_csv(sample.captures, drawn))
    say(f"{len(drawn.random) + len(drawn.border)} captures to label: fill the column label of {to_label},")
    say("then call again with --labels and another --out to get its accuracy")


def _provenance(options: Wanted, sample: Looked, selection: Majority) -> dict[str, Any]:
    """What the manifest says about how the bundle was adapted: only counts, no names."""
    patients = sample.patient_numbers()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parents_captures_known": not options.forget_parent,
        "archive": {"captures": sample.found, "patients": sample.patients},
        "looked_at": len(sample.captures) + sample.unreadable,
        "used": {"captures": int(selection.own.sum()), "patients": len(np.unique(patients[selection.own]))},
        "left_out": {
            "unreadable": sample.unreadable,
            "unlike_smears": selection.unlike_smears,
            "apart_from_the_majority": selection.apart,
            "empty_or_out_of_focus": selection.poor,
        },
    }


def _counting(before: _Served, after: _Served, sample: Looked) -> dict[str, float]:
    """Share of the readable captures with a nucleated cell that count, by the parent and by the new bundle."""
    served = {"parent": before, "adapted": after}
    return {
        name: float(bundle.counts(sample.answers, sample.measures)[sample.with_cells].mean())
        for name, bundle in served.items()
    }


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
        "adapted.html", folder / REPORT, {}, in_bundle=True, m=complete, a=adaptation, parent=of_parent,
        sentences=sentences, parents_report=PARENTS_REPORT if has_parents else None,
    )  # fmt: skip
    write_manifest(folder, complete)
    for sentence in sentences:
        say(sentence)


def _sentences(parent: Bundle, adaptation: dict[str, Any]) -> list[str]:
    """What was done and what stays unknown; the first sentence is the bundle's notice."""
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
    sentences = [
        first,
        f"Its reference comes from {used['captures']} captures of {used['patients']} patients; not used: "
        + ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in left_out.items())
        + ".",
        f"{counting['adapted']:.1%} of all readable captures with a nucleated cell count now "
        f"({counting['parent']:.1%} by the parent). "
        f"A reference taken from other patients knows {adaptation['share_known']:.1%} of the reference's captures.",
    ]
    if figures is not None:
        sentences += _accuracies(figures)
    return sentences


def _accuracies(figures: dict[str, Any]) -> list[str]:
    """Accuracy of both bundles, in sentences."""
    sentences = []
    for name, by_draw in figures.items():
        drawn, near = by_draw[RANDOM], by_draw[adapt_labels.BORDER]
        sentences.append(
            f"{name}: of the captures drawn at random {report.rate(drawn['accuracy'])} are right, as ALL or benign "
            f"{report.rate(drawn['all_versus_benign'])}; {drawn['counting']['accuracy']['of']} of them count, of which "
            f"{report.rate(drawn['counting']['accuracy'])} are right. Near the border, which gives a pessimistic "
            f"figure: {report.rate(near['accuracy'])}."
        )
    return sentences
