"""Figures of a bundle on labelled captures, per capture and per patient: scikit-learn's, torchmetrics' and SciPy's."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    """Captures of which label and outcome are known: `targets` [N], `probabilities` [N, L], and what they belong to.

    `groups` [N] says which captures are alike because they are of one patient (or cluster); `benign` is a column.
    """

    labels: Sequence[str]
    benign: int
    targets: NDArray[np.int64]
    probabilities: Probabilities
    groups: Groups


def fit_temperature(logits: Probabilities, targets: NDArray[np.int64]) -> float:
    """The temperature that minimises the negative log likelihood on validation captures (Guo et al. 2017).

    logits [N, L], targets [N]. Searched between 1/20 and 20.
    """
    rows = np.arange(len(targets))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=1)[rows, targets].mean())

    found = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def uncalibrated(probabilities: Probabilities, temperature: float) -> Probabilities:
    """What the graph's probabilities were before temperature scaling: softmax ignores a common term of the logits."""
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
    """95 % interval of a share of captures that come in groups (Korn & Graubard 1998).

    Clopper and Pearson's, with as many captures as the groups are worth: n over the design effect, the variance of
    the share between groups over that of independent captures. Where all are right, or all wrong, captures of a group
    count as one. `right` [N].
    """
    n = len(right)
    share = float(right.mean())
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    sizes, hits = np.bincount(place), np.bincount(place, weights=right)
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
    """A share of independent cases with its 95 % interval (Clopper & Pearson 1934); value None where there is none."""
    return {
        "value": hits / of if of else None,
        "hits": hits,
        "of": of,
        "interval": _clopper_pearson(hits, of) if of else None,
    }


def capture_metrics(of: Labelled, temperature: float = 1.0) -> dict[str, Any]:
    """Per-capture figures; confusion matrix: rows truth, columns called. A capture is called ALL if P(ALL) >= 0.5."""
    indices = np.arange(len(of.labels))
    targets, probabilities = of.targets, of.probabilities
    called = probabilities.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, called, labels=indices, average=None, zero_division=0
    )
    confusion = confusion_matrix(targets, called, labels=indices)
    onehot = np.eye(len(indices), dtype=int)[targets]
    aucs = [_auc(onehot[:, i] == 1, probabilities[:, i]) for i in indices]
    known = [auc for auc in aucs if auc is not None]
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
        "macro_auc": float(np.mean(known)) if known else None,
        "micro_auc": float(roc_auc_score(onehot.ravel(), probabilities.ravel())),
        "calibration": calibration(probabilities, targets),
        "calibration_before": calibration(uncalibrated(probabilities, temperature), targets),
        "all_versus_benign": all_versus_benign(of),
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def all_versus_benign(of: Labelled) -> dict[str, Any]:
    """Sensitivity for ALL and specificity, per capture, with 95 % intervals; None where data holds only one of them."""
    is_all, score = of.targets != of.benign, 1 - of.probabilities[:, of.benign]
    groups = np.asarray(of.groups)

    def rate(rows: NDArray[np.bool_], right: NDArray[np.bool_]) -> dict[str, Any]:
        if not rows.any():
            return {"value": None, "hits": 0, "of": 0, "interval": None}
        chosen = right[rows]
        spread = interval(chosen, groups[rows])
        return {"value": float(chosen.mean()), "hits": int(chosen.sum()), "of": len(chosen), "interval": spread}

    return {
        "auc": _auc(is_all, score),
        "sensitivity": rate(is_all, score >= 0.5),
        "specificity": rate(~is_all, score < 0.5),
        "sensitivity_at_specificity": {str(FIXED_SPECIFICITY): sensitivity_at(is_all, score, FIXED_SPECIFICITY)},
    }


def sensitivity_at(positive: NDArray[np.bool_], score: Probabilities, specificity: float) -> float | None:
    """The highest sensitivity that some threshold reaches with at least this specificity; None with one class only."""
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
    """How the case rule fares on patients (`of.groups`).

    sensitivity: patients with ALL that are not called benign; specificity: benign ones that are not called ALL; what
    is indeterminate or insufficient is read by a haematologist either way, and counted in `verdicts`.
    """
    labels, benign_label = of.labels, of.labels[of.benign]
    verdicts: dict[str, dict[str, int]] = {label: {verdict.value: 0 for verdict in Verdict} for label in labels}
    subtypes_right = 0
    groups = rows_of(of.groups)
    for rows in groups:
        truth = labels[int(of.targets[rows[0]])]
        captures = [JudgedCapture(of.probabilities[row]) for row in rows]
        counts = CaseCounts(len(rows), len(rows), 0, 0)
        result = judge(captures, policy=policy, labels=labels, benign_label=benign_label, counts=counts)
        verdicts[truth][result.verdict.value] += 1
        subtypes_right += truth != benign_label and result.verdict == Verdict.ALL and result.subtype == truth
    benign = verdicts[benign_label]
    with_all = [row for label, row in verdicts.items() if label != benign_label]
    missed = sum(row[Verdict.BENIGN.value] for row in with_all)
    called = sum(row[Verdict.ALL.value] for row in with_all)
    of_all, of_benign = sum(sum(row.values()) for row in with_all), sum(benign.values())
    return {
        "patients": len(groups),
        "verdicts_right": called + benign[Verdict.BENIGN.value],
        "subtypes_right": subtypes_right,
        "subtypes_of": called,
        "sensitivity": share(of_all - missed, of_all),
        "specificity": share(of_benign - benign[Verdict.ALL.value], of_benign),
        "verdicts": verdicts,
    }
