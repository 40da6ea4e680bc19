"""Figures of a bundle on labelled captures, per capture and per patient; all from scikit-learn but one (ECE)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from contract.case_policy import CaseCounts, CasePolicy, judge
from contract.states import Verdict

ECE_BINS = 15
Probabilities = NDArray[np.float64]


def fit_temperature(logits: Probabilities, targets: NDArray[np.int64]) -> float:
    """The temperature that minimises the negative log likelihood on validation captures (Guo et al. 2017).

    logits [N, L], targets [N]. Searched between 1/20 and 20.
    """
    rows = np.arange(len(targets))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=1)[rows, targets].mean())

    found = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def expected_calibration_error(probabilities: Probabilities, targets: NDArray[np.int64]) -> float:
    """Mean over captures of |confidence - accuracy| in 15 equal bins of the highest probability (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    bins = np.clip((confidence * ECE_BINS).astype(int), 0, ECE_BINS - 1)
    gaps = [
        abs(confidence[bins == i].mean() - right[bins == i].mean()) * np.mean(bins == i)
        for i in range(ECE_BINS)
        if np.any(bins == i)
    ]
    return float(np.sum(gaps))


def capture_metrics(
    targets: NDArray[np.int64], probabilities: Probabilities, labels: Sequence[str], benign: int
) -> dict[str, Any]:
    """Per-capture figures. targets [N], probabilities [N, L]; confusion matrix: rows truth, columns called."""
    indices = np.arange(len(labels))
    called = probabilities.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, called, labels=indices, average=None, zero_division=0
    )
    confusion = confusion_matrix(targets, called, labels=indices)
    aucs = [_auc(targets == i, probabilities[:, i]) for i in indices]
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
        for i, label in enumerate(labels)
    }
    return {
        "captures": len(targets),
        "accuracy": float(accuracy_score(targets, called)),
        "macro_f1": float(f1_score(targets, called, labels=indices, average="macro", zero_division=0)),
        "macro_auc": float(np.mean(known)) if known else None,
        "all_auc": _auc(targets != benign, 1 - probabilities[:, benign]),
        "log_loss": float(log_loss(targets, probabilities / probabilities.sum(axis=1, keepdims=True), labels=indices)),
        "ece": expected_calibration_error(probabilities, targets),
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def _auc(positive: NDArray[np.bool_], scores: Probabilities) -> float | None:
    """Area under the ROC curve; None where there is only one class."""
    return float(roc_auc_score(positive, scores)) if positive.any() and not positive.all() else None


def _specificity(confusion: NDArray[np.int64], label: int) -> float | None:
    others = np.delete(confusion, label, axis=0)
    return float(1 - others[:, label].sum() / others.sum()) if others.sum() else None


def by_patient(patients: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Positions of each patient's captures, patients in the order of their names."""
    names = np.asarray(patients)
    return {str(patient): np.flatnonzero(names == patient) for patient in np.unique(names)}


def fit_case_policy(
    targets: NDArray[np.int64],
    probabilities: Probabilities,
    patients: Sequence[str],
    benign: int,
    min_captures: int,
) -> tuple[CasePolicy, dict[str, Any]]:
    """Thresholds on the score of a patient (mean P(ALL) over captures), and what they rest on.

    Let b be the highest score of a benign patient and a the lowest of a patient with ALL. If b < a, both thresholds
    are halfway between. If the two overlap, the cut is the midpoint between neighbouring scores with the best balanced
    accuracy (the middle one of equals), and what lies within 0.05 of it and inside [a, b] is indeterminate.
    """
    groups = by_patient(patients)
    p_all = 1 - probabilities[:, benign]
    scores = np.asarray([p_all[rows].mean() for rows in groups.values()])
    is_all = np.asarray([targets[rows[0]] != benign for rows in groups.values()])
    basis: dict[str, Any] = {"patients_benign": int((~is_all).sum()), "patients_all": int(is_all.sum())}
    if is_all.all() or not is_all.any():
        low = high = 0.5
    else:
        b, a = float(scores[~is_all].max()), float(scores[is_all].min())
        basis |= {"highest_benign_score": b, "lowest_all_score": a}
        if b < a:
            low = high = (a + b) / 2
        else:
            cut = _best_cut(scores, is_all)
            low, high = max(min(a, cut), cut - 0.05), min(max(b, cut), cut + 0.05)
    policy = CasePolicy(benign_at_most=low, all_at_least=high, min_captures=min_captures)
    return policy, basis


def _best_cut(scores: NDArray[np.float64], is_all: NDArray[np.bool_]) -> float:
    ordered = np.unique(scores)
    cuts = (ordered[:-1] + ordered[1:]) / 2 if len(ordered) > 1 else ordered
    balanced = np.asarray([((scores[is_all] >= c).mean() + (scores[~is_all] < c).mean()) / 2 for c in cuts])
    best = np.flatnonzero(balanced == balanced.max())
    return float(cuts[best[len(best) // 2]])


def patient_metrics(
    policy: CasePolicy,
    labels: Sequence[str],
    benign_label: str,
    targets: NDArray[np.int64],
    probabilities: Probabilities,
    patients: Sequence[str],
) -> dict[str, Any]:
    """How the case rule fares: verdicts right, and subtypes right among the patients with ALL that were called so."""
    counts: dict[str, dict[str, int]] = {label: {verdict.value: 0 for verdict in Verdict} for label in labels}
    right = subtypes_right = called_all = 0
    groups = by_patient(patients)
    for rows in groups.values():
        truth = labels[int(targets[rows[0]])]
        n = len(rows)
        result = judge(policy, labels, benign_label, probabilities[rows], CaseCounts(n, n, 0, 0))
        counts[truth][result.verdict.value] += 1
        right += result.verdict == (Verdict.BENIGN if truth == benign_label else Verdict.ALL)
        if truth != benign_label and result.verdict == Verdict.ALL:
            called_all += 1
            subtypes_right += result.subtype == truth
    return {
        "patients": len(groups),
        "verdicts_right": right,
        "subtypes_right": subtypes_right,
        "subtypes_of": called_all,
        "verdicts": counts,
    }
