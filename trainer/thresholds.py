"""Thresholds of the case rule, fitted on validation patients for a target sensitivity, and the promise they allow."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.case_policy import RULE_PARAMETERS, CasePolicy
from trainer.config import CaseTable
from trainer.metrics import CONFIDENCE, Labelled, rows_of, share
from trainer.splits import natural

BLOCK = 20
"""Captures in a block, which replaces a patient where patients are unknown."""


def blocks_of(paths: Sequence[str], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Block number of each capture, [N]: about 20 captures of one label with consecutive file numbers form a block."""
    groups = np.zeros(len(paths), np.int64)
    next_block = 0
    for target in np.unique(targets):
        rows = sorted(np.flatnonzero(targets == target), key=lambda i: natural(paths[int(i)]))
        for part in np.array_split(rows, max(1, round(len(rows) / BLOCK))):
            groups[part] = next_block
            next_block += 1
    return groups


def fit_case_policy(of: Labelled, table: CaseTable, unit: str) -> tuple[CasePolicy, dict[str, Any]]:
    """Thresholds on the score of a case by the rule that the table names, and the figures that they rest on.

    A is the lowest score of a case with ALL, without the share of cases that the target sensitivity allows to miss; B
    is the highest score of a benign case, without the share that the target specificity allows. If B < A, benign ends
    at a third of the way from B to A, ALL begins at two thirds, and the scores between them, where no case was seen,
    are indeterminate. If the two overlap, every score from A to B is indeterminate. `of.groups` are the cases; `unit`
    is the word for one of them. Only captures that the policy does not exclude make a score, as in the worker; a case
    of which none counts has no score, and is left out.
    """
    rule = CasePolicy(
        benign_at_most=0.5,
        all_at_least=0.5,
        **table.model_dump(include={"rule", "min_captures", "exclude", *RULE_PARAMETERS}),
    )
    of = of.counting(rule)
    groups = rows_of(of.groups)
    p_all = 1 - of.probabilities[:, of.benign]
    scores = np.asarray([rule.scores(p_all[rows]) for rows in groups])
    is_all = np.asarray([of.targets[rows[0]] != of.benign for rows in groups], bool)
    low = high = 0.5
    if is_all.any() and not is_all.all():
        lowest_all = _extreme(np.sort(scores[is_all]), table.target_sensitivity)
        highest_benign = _extreme(np.sort(scores[~is_all])[::-1], table.target_specificity)
        if highest_benign < lowest_all:
            gap = lowest_all - highest_benign
            low, high = highest_benign + gap / 3, lowest_all - gap / 3
        else:
            low = (max([0.0, *scores[scores < lowest_all]]) + lowest_all) / 2
            high = (min([1.0, *scores[scores > highest_benign]]) + highest_benign) / 2
    policy = rule.model_copy(update={"benign_at_most": low, "all_at_least": high})
    reached = share(int((scores[is_all] > low).sum()), int(is_all.sum()))
    return policy, {
        "unit": unit,
        "target_sensitivity": table.target_sensitivity,
        "target_specificity": table.target_specificity,
        "sensitivity": reached,
        "specificity": share(int((scores[~is_all] < high).sum()), int((~is_all).sum())),
        "indeterminate": int(((scores > low) & (scores < high)).sum()),
        "promise": promise(reached, table.target_sensitivity, unit),
    }


def _extreme(ordered: NDArray[np.float64], target: float) -> float:
    """The first score that remains after removing as many from the front as the target allows."""
    return float(ordered[min(len(ordered) - 1, math.floor((1 - target) * len(ordered) + 1e-9))])


def promise(reached: dict[str, Any], target: float, unit: str) -> str:
    """In plain words, what this number of cases with ALL proves about the target sensitivity."""
    if not reached["of"]:
        return f"No {unit} with ALL was in validation: nothing can be said about the sensitivity."
    low, high = reached["interval"]
    sentence = (
        f"On validation {reached['hits']} of {reached['of']} {unit}s with ALL were not called benign "
        f"({reached['hits'] / reached['of']:.1%}; {CONFIDENCE:.0%} interval {low:.1%} to {high:.1%})."
    )
    if low >= target:
        return f"{sentence} The target of {target:.1%} is met with confidence."
    if target == 1:
        return f"{sentence} No finite number of {unit}s can promise 100 %."
    needed = math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(target))
    return (
        f"{sentence} That is too few to promise the target of {target:.1%}: even without a single miss it would take "
        f"{needed} {unit}s with ALL. The thresholds aim at the target; they do not guarantee it."
    )
