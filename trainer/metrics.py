"""Figures of a bundle on labelled captures, per capture and per patient, by scikit-learn, torchmetrics and SciPy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import beta
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)
from torchmetrics.functional.classification import multiclass_calibration_error

from contract.case_policy import CasePolicy
from contract.case_rule import CaseCounts, JudgedCapture, judge
from contract.states import Verdict

ECE_BINS = 15
CONFIDENCE = 0.95
FIXED_SPECIFICITY = 0.95
Probabilities = NDArray[np.float64]
Groups = Sequence[str] | NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Captures whose label and outcome are known: `targets` [N], `probabilities` [N, L], `groups` [N].

    Captures of one group are alike because they come from one patient (or cluster). `benign` is the column of the
    benign label. `marks` [N] holds the codes of each capture's marks, as the worker would set them; empty where they
    are not known, and then every capture counts.
    """

    labels: Sequence[str]
    benign: int
    targets: NDArray[np.int64]
    probabilities: Probabilities
    groups: Groups
    marks: Sequence[Sequence[str]] = ()

    def counting(self, policy: CasePolicy) -> "Labelled":
        """The captures that count for a case by this policy."""
        if not self.marks:
            return self
        rows = np.flatnonzero([not policy.excludes(marks) for marks in self.marks])
        groups = np.asarray(self.groups)[rows]
        return replace(
            self, targets=self.targets[rows], probabilities=self.probabilities[rows], groups=groups,
            marks=[self.marks[row] for row in rows.tolist()],
        )  # fmt: skip


def fit_temperature(logits: Probabilities, targets: NDArray[np.int64]) -> float:
    """The temperature that minimises the negative log likelihood on validation captures (Guo et al. 2017).

    logits [N, L], targets [N]. The search covers 1/20 to 20.
    """
    rows = np.arange(len(targets))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=1)[rows, targets].mean())

    minimum = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded")
    return float(np.exp(minimum.x))


def uncalibrated(probabilities: Probabilities, temperature: float) -> Probabilities:
    """The graph's probabilities before temperature scaling; softmax ignores a term that all logits share."""
    return np.asarray(softmax(temperature * np.log(np.clip(probabilities, 1e-12, 1)), axis=1))


def calibration(probabilities: Probabilities, targets: NDArray[np.int64]) -> dict[str, float]:
    """Expected calibration error in 15 equal bins (Naeini et al. 2015), Brier score (sum over labels, 0 to 2), loss."""
    count = probabilities.shape[1]
    normal = probabilities / probabilities.sum(axis=1, keepdims=True)
    error = multiclass_calibration_error(
        torch.from_numpy(normal), torch.from_numpy(targets), num_classes=count, n_bins=ECE_BINS, norm="l1"
    )
    onehot = np.eye(count)[targets]
    return {
        "ece": float(error),
        "brier": float(brier_score_loss(onehot, normal, scale_by_half=False)),
        "log_loss": float(log_loss(targets, normal, labels=np.arange(count))),
    }


def interval(right: NDArray[np.bool_], groups: Groups) -> list[float]:
    """95 % interval of the share of captures in `right` [N], which come in groups (Korn & Graubard 1998).

    It is Clopper and Pearson's interval for the effective number of captures: n divided by the design effect, which is
    the variance of the share between groups divided by that of independent captures. Where all captures are right, or
    all are wrong, a group counts as one capture.
    """
    n = len(right)
    share = float(right.mean())
    _, group_numbers = np.unique(np.asarray(groups), return_inverse=True)
    sizes, hits = np.bincount(group_numbers), np.bincount(group_numbers, weights=right)
    clusters = len(sizes)
    if clusters == n:
        effective = float(n)
    elif 0 < share < 1 and clusters > 1:
        variance = clusters / (clusters - 1) * float(((hits - sizes * share) ** 2).sum()) / n**2
        effective = float(np.clip(share * (1 - share) / max(variance, 1e-12), 1, n))
    else:
        effective = float(clusters)
    return _clopper_pearson(share * effective, effective)


def _clopper_pearson(hits: float, n: float) -> list[float]:
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if hits <= 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits >= n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return [low, high]


def share(hits: int, of: int) -> dict[str, Any]:
    """A share of independent cases with its 95 % interval (Clopper & Pearson 1934); both are None without any case."""
    return {
        "value": hits / of if of else None,
        "hits": hits,
        "of": of,
        "interval": _clopper_pearson(hits, of) if of else None,
    }


def capture_metrics(of: Labelled, temperature: float = 1.0) -> dict[str, Any]:
    """Per-capture figures. A capture is called ALL if P(ALL) >= 0.5.

    The confusion matrix has a row for each true label and a column for each called label.
    """
    indices = np.arange(len(of.labels))
    targets, probabilities = of.targets, of.probabilities
    called = probabilities.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, called, labels=indices, average=None, zero_division=0
    )
    confusion = confusion_matrix(targets, called, labels=indices)
    onehot = np.eye(len(indices), dtype=int)[targets]
    aucs = [_auc(onehot[:, i] == 1, probabilities[:, i]) for i in indices]
    defined_aucs = [auc for auc in aucs if auc is not None]
    per_class = {
        label: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "specificity": _specificity(confusion, i),
            "auc": aucs[i],
            "support": int(support[i]),
        }
        for i, label in enumerate(of.labels)
    }
    present = indices[support > 0]
    return {
        "captures": len(targets),
        "accuracy": float(accuracy_score(targets, called)),
        "accuracy_interval": interval(called == targets, of.groups),
        "macro_f1": float(f1_score(targets, called, labels=present, average="macro", zero_division=0)),
        "macro_auc": float(np.mean(defined_aucs)) if defined_aucs else None,
        "micro_auc": float(roc_auc_score(onehot.ravel(), probabilities.ravel())),
        "calibration": calibration(probabilities, targets),
        "calibration_before": calibration(uncalibrated(probabilities, temperature), targets),
        "all_versus_benign": all_versus_benign(of),
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def all_versus_benign(of: Labelled) -> dict[str, Any]:
    """Sensitivity for ALL and specificity, per capture, with 95 % intervals; None where no capture has the label."""
    is_all, score = of.targets != of.benign, 1 - of.probabilities[:, of.benign]
    groups = np.asarray(of.groups)

    def rate(rows: NDArray[np.bool_], right: NDArray[np.bool_]) -> dict[str, Any]:
        if not rows.any():
            return {"value": None, "hits": 0, "of": 0, "interval": None}
        right_in_rows = right[rows]
        spread = interval(right_in_rows, groups[rows])
        return {
            "value": float(right_in_rows.mean()),
            "hits": int(right_in_rows.sum()),
            "of": len(right_in_rows),
            "interval": spread,
        }

    return {
        "auc": _auc(is_all, score),
        "sensitivity": rate(is_all, score >= 0.5),
        "specificity": rate(~is_all, score < 0.5),
        "sensitivity_at_specificity": {str(FIXED_SPECIFICITY): sensitivity_at(is_all, score, FIXED_SPECIFICITY)},
    }


def sensitivity_at(positive: NDArray[np.bool_], score: Probabilities, specificity: float) -> float | None:
    """The highest sensitivity at which a threshold keeps at least this specificity; None with only one class."""
    if positive.all() or not positive.any():
        return None
    false_positive, true_positive, _ = roc_curve(positive, score, drop_intermediate=False)
    return float(true_positive[false_positive <= 1 - specificity + 1e-12].max())


def _auc(positive: NDArray[np.bool_], scores: Probabilities) -> float | None:
    """Area under the ROC curve; None where there is only one class."""
    return float(roc_auc_score(positive, scores)) if positive.any() and not positive.all() else None


def _specificity(confusion: NDArray[np.int64], label: int) -> float | None:
    others = np.delete(confusion, label, axis=0)
    return float(1 - others[:, label].sum() / others.sum()) if others.sum() else None


def rows_of(groups: Groups) -> list[NDArray[np.int64]]:
    """Positions of each group's captures, groups in the order of their names."""
    names = np.asarray(groups)
    return [np.flatnonzero(names == name) for name in np.unique(names)]


def patient_metrics(policy: CasePolicy, of: Labelled) -> dict[str, Any]:
    """Figures of the case rule on patients (`of.groups`).

    sensitivity: share of patients with ALL that are not called benign; specificity: share of benign patients that are
    not called ALL. A haematologist reads indeterminate and insufficient cases either way; `verdicts` counts them.
    """
    labels, benign_label = of.labels, of.labels[of.benign]
    verdicts: dict[str, dict[str, int]] = {label: {verdict.value: 0 for verdict in Verdict} for label in labels}
    subtypes_right = 0
    groups = rows_of(of.groups)
    for rows in groups:
        truth = labels[int(of.targets[rows[0]])]
        captures = [JudgedCapture(of.probabilities[row], marks=of.marks[row] if of.marks else ()) for row in rows]
        case_counts = CaseCounts(len(rows), len(rows), 0, 0)
        result = judge(captures, policy=policy, labels=labels, benign_label=benign_label, counts=case_counts)
        verdicts[truth][result.verdict.value] += 1
        subtypes_right += truth != benign_label and result.verdict == Verdict.ALL and result.subtype == truth
    benign_counts = verdicts[benign_label]
    all_counts = [counts for label, counts in verdicts.items() if label != benign_label]
    missed = sum(counts[Verdict.BENIGN.value] for counts in all_counts)
    called_all = sum(counts[Verdict.ALL.value] for counts in all_counts)
    patients_with_all = sum(sum(counts.values()) for counts in all_counts)
    benign_patients = sum(benign_counts.values())
    return {
        "patients": len(groups),
        "verdicts_right": called_all + benign_counts[Verdict.BENIGN.value],
        "subtypes_right": subtypes_right,
        "subtypes_of": called_all,
        "sensitivity": share(patients_with_all - missed, patients_with_all),
        "specificity": share(benign_patients - benign_counts[Verdict.ALL.value], benign_patients),
        "verdicts": verdicts,
    }
