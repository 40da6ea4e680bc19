"""Draws the charts of a report as PNG: curves, matrices, calibration. trainer.pictures draws pictures of captures."""

import io
from collections.abc import Sequence
from typing import Any

import cycler
import matplotlib as mpl

mpl.use("Agg")  # before pyplot: no screen is needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay, auc, roc_curve

from contract.case_policy import CasePolicy
from trainer.metrics import ECE_BINS, Labelled, rows_of, uncalibrated

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
"""Okabe and Ito's palette: colour-blind readers can distinguish these colours."""
DPI = 110
Probabilities = NDArray[np.float64]
mpl.rcParams.update({
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.prop_cycle": cycler.cycler(color=COLOURS), "figure.constrained_layout.use": True,
})  # fmt: skip


def png(figure: Figure, *, photographs: bool = False) -> bytes:
    """The figure as PNG, then closed; charts get 256 colours, a third of the size, photographs keep all of theirs."""
    figure.set_dpi(DPI)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")  # type: ignore[attr-defined]
    plt.close(figure)
    small = io.BytesIO()
    shown = picture if photographs else picture.quantize(256, dither=Image.Dither.NONE)
    shown.save(small, format="PNG", optimize=True)
    return small.getvalue()


def axes(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    return plt.subplots(1, columns, figsize=(width, height))


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def class_distribution(labels: Sequence[str], counts: dict[str, Sequence[int]]) -> bytes:
    """How many captures of each label each split has, as bars beside each other."""
    figure, ax = axes(7.5, 3.4)
    width = 0.8 / len(counts)
    for place, (name, numbers) in enumerate(counts.items()):
        bars = ax.bar(np.arange(len(labels)) + (place - (len(counts) - 1) / 2) * width, numbers, width, label=name)
        ax.bar_label(bars, fontsize=8, padding=2)
    ax.set_xticks(range(len(labels)), labels)
    ax.set_ylabel("captures")
    ax.grid(axis="x", visible=False)
    ax.legend(frameon=False, ncols=len(counts), loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return png(figure)


def finder(finders: Sequence[dict[str, Any]]) -> bytes:
    """The learning-rate finder's curves, one for each phase that used it, with the suggestion marked."""
    figure, ax = axes(7.5, 3.4)
    for number, curve in enumerate(finders):
        if not curve:
            continue
        ax.plot(curve["rates"], curve["losses"], color=colour(number), label=f"phase {number + 1}")
        marked = int(np.argmin(np.abs(np.log(curve["rates"]) - np.log(curve["suggestion"]))))
        ax.plot(curve["rates"][marked], curve["losses"][marked], "o", color=colour(number))
        ax.annotate(
            f"suggestion {curve['suggestion']:.1e}" + ("" if curve["clear"] else " (unclear curve)"),
            (curve["rates"][marked], curve["losses"][marked]),
            textcoords="offset points", xytext=(8, 8), color=colour(number),
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("smoothed training loss")
    ax.legend(frameon=False)
    return png(figure)


def curves(history: Sequence[dict[str, Any]], best_epoch: int) -> bytes:
    """Loss and accuracy over epochs, and the learning rate; the epoch that was kept is marked."""
    figure, (left, middle, right) = axes(10, 3.3, 3)
    epochs = [row["epoch"] for row in history]

    def line(ax: Axes, key: str, label: str, style: str) -> None:
        values = [np.nan if row[key] is None else row[key] for row in history]
        ax.plot(epochs, values, style, label=label, markersize=3)

    line(left, "loss", "training", "o-")
    line(left, "validation_loss", "validation", "s-")
    left.set_ylabel("loss")
    highest = max(row["loss"] for row in history)
    validation = [row["validation_loss"] for row in history if row["validation_loss"] is not None]
    if validation and max(validation) > 3 * highest:  # an early epoch with an exploded loss would flatten all others
        left.set_ylim(0, max(1.2 * highest, 1.2 * float(np.percentile(validation, 75))))
    line(middle, "training_accuracy", "training (augmented)", "o-")
    line(middle, "validation_accuracy", "validation", "s-")
    line(middle, "validation_macro_f1", "validation macro F1", "--")
    middle.set_ylabel("accuracy")
    right.plot(epochs, [row["learning_rate"] for row in history], "o-", color=COLOURS[2], markersize=3)
    right.set_ylabel("learning rate at the epoch's end")
    right.set_ylim(bottom=0)
    for ax in (left, middle, right):
        ax.axvline(best_epoch, color="#999999", linestyle=":", label=f"kept: epoch {best_epoch}")
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False, fontsize=8)
    middle.legend(frameon=False, fontsize=8)
    return png(figure)


def roc(labelled: Labelled) -> bytes:
    """ROC curve of every label against the others, micro average, and the upper left corner enlarged."""
    figure, panels = axes(10, 4.4, 2)
    onehot = np.eye(len(labelled.labels), dtype=int)[labelled.targets]
    for ax in panels:
        for index, label in enumerate(labelled.labels):
            if 0 < onehot[:, index].sum() < len(onehot):
                false_positive, true_positive, _ = roc_curve(onehot[:, index], labelled.probabilities[:, index])
                name = f"{label}, AUC {auc(false_positive, true_positive):.4f}"
                ax.plot(false_positive, true_positive, color=colour(index), label=name)
        false_positive, true_positive, _ = roc_curve(onehot.ravel(), labelled.probabilities.ravel())
        name = f"micro average, AUC {auc(false_positive, true_positive):.4f}"
        ax.plot(false_positive, true_positive, "--", color="#555555", label=name)
        ax.set_xlabel("1 - specificity")
        ax.set_ylabel("sensitivity")
    panels[0].set_title("whole", fontsize=10)
    panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    panels[1].set_title("upper left corner", fontsize=10)
    panels[1].set_xlim(-0.004, 0.2)
    panels[1].set_ylim(0.8, 1.004)
    return png(figure)


def confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> bytes:
    """Rows are the true labels, columns the called ones; the colour is the share of the row."""
    counts = np.asarray(matrix)
    side = 2.6 + 0.55 * len(labels)
    figure, ax = axes(side + 0.8, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ConfusionMatrixDisplay(shares, display_labels=labels).plot(
        ax=ax, cmap="Blues", include_values=False, colorbar=False, xticks_rotation=30, im_kw={"vmin": 0, "vmax": 1.2}
    )
    for (row, column), count in np.ndenumerate(counts):
        dark = shares[row, column] > 0.6
        ax.text(column, row, f"{count}\n{shares[row, column]:.1%}", ha="center", va="center", fontsize=9,
                color="white" if dark else "#222222")  # fmt: skip
    ax.grid(visible=False)
    ax.set_xlabel("called")
    ax.set_ylabel("truth")
    return png(figure)


def reliability(labelled: Labelled, temperature: float) -> bytes:
    """Share of right calls over confidence, before and after temperature scaling, and a histogram of confidence."""
    figure, (left, right) = axes(9, 3.8, 2)
    left.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    for name, probabilities, style in (
        ("before temperature scaling", uncalibrated(labelled.probabilities, temperature), "s--"),
        ("after", labelled.probabilities, "o-"),
    ):
        confidence = probabilities.max(axis=1).clip(0, 1)
        share, mean = calibration_curve(probabilities.argmax(axis=1) == labelled.targets, confidence, n_bins=ECE_BINS)
        left.plot(mean, share, style, label=name, markersize=4)
        right.hist(confidence, bins=ECE_BINS, range=(0, 1), histtype="step", label=name, linewidth=1.4)
    left.set_xlabel("confidence (highest probability)")
    left.set_ylabel("share of right calls")
    left.legend(frameon=False, fontsize=8)
    right.set_yscale("log")
    right.set_xlabel("confidence")
    right.set_ylabel("captures")
    return png(figure)


def robustness(table: dict[str, Any], baselines: dict[str, float]) -> bytes:
    """Accuracy under each change with its interval; lines show what only shortcuts and what chance reaches."""
    lines = [*table["lines"], *table["masking"]["lines"]]
    figure, ax = axes(8.5, 1.2 + 0.27 * len(lines))
    for place, line in enumerate(reversed(lines)):
        low, high = line["interval"]
        unchanged = line["change"] == lines[0]["change"]
        ax.plot([low, high], [place, place], color=COLOURS[1 if unchanged else 0], linewidth=2, alpha=0.5)
        ax.plot(line["accuracy"], place, "o", color=COLOURS[1 if unchanged else 0])
    ax.set_yticks(range(len(lines)), [line["change"] for line in reversed(lines)])
    ax.axvline(
        table["chance"], color="#999999", linestyle=":", label=f"always the most frequent label {table['chance']:.1%}"
    )
    for place, (name, value) in enumerate(baselines.items()):
        ax.axvline(value, color=colour(place + 2), linestyle="--", linewidth=1, label=f"{name} {value:.1%}")
    ax.axvline(lines[0]["accuracy"], color=COLOURS[1], linewidth=0.8)
    ax.set_xlim(0, 1.01)
    ax.set_xlabel("accuracy, with 95 % interval")
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.09), ncols=2)
    return png(figure)


def case_scores(labelled: Labelled, policy: CasePolicy, unit: str) -> bytes:
    """Score of every case of which captures count by its true label, with the thresholds of the case rule."""
    figure, ax = axes(8, 0.9 + 0.45 * len(labelled.labels))
    rng = np.random.default_rng(0)
    labelled = labelled.counting(policy)
    for rows in rows_of(labelled.groups):
        truth = int(labelled.targets[rows[0]])
        score = float(policy.scores(1 - labelled.probabilities[rows, labelled.benign]))
        ax.plot(score, truth + rng.uniform(-0.25, 0.25), "o", color=colour(truth), alpha=0.6, markersize=5)
    ax.axvspan(-0.02, policy.benign_at_most, color="#009E73", alpha=0.10)
    ax.axvspan(policy.benign_at_most, policy.all_at_least, color="#E69F00", alpha=0.18)
    ax.axvspan(policy.all_at_least, 1.02, color="#D55E00", alpha=0.10)
    ax.set_yticks(range(len(labelled.labels)), labelled.labels)
    ax.invert_yaxis()
    ax.set_xlim(-0.02, 1.02)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"score of a {unit}: {policy.description}\n(green: called benign, yellow: indeterminate, red: ALL)")
    return png(figure)


def comparison(summary: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> bytes:
    """Accuracy of each recipe: a bar for the mean, a point for each seed, a cross for the audit's worst change."""
    figure, ax = axes(8, 1.0 + 0.42 * len(summary))
    for place, recipe in enumerate(reversed(summary)):
        ax.barh(place, recipe["accuracy"]["mean"], color=COLOURS[5], height=0.6, alpha=0.6)
        runs = [row for row in rows if row["name"] == recipe["name"]]
        ax.plot([row["accuracy"] for row in runs], [place] * len(runs), "o", color=COLOURS[0], markersize=5)
        ax.plot([row["worst_change"] for row in runs], [place] * len(runs), "x", color=COLOURS[1], markersize=6)
    ax.set_yticks(range(len(summary)), [recipe["name"] for recipe in reversed(summary)])
    ax.set_xlim(0, 1.01)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("accuracy on the test split (points: seeds; crosses: under the worst change of the audit)")
    return png(figure)
