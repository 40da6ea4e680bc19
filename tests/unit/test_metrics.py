"""Every figure against an example worked by hand, or against another way to the same number."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

pytest.importorskip("torchmetrics")

from contract.case_policy import CasePolicy, RuleName
from contract.states import MarkCode
from trainer import metrics, shortcuts
from trainer.comparison import mcnemar
from trainer.config import CaseTable
from trainer.crossval import warned
from trainer.metrics import Labelled
from trainer.thresholds import blocks_of, fit_case_policy, promise
from trainer.traits import Traits

P = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
TARGETS = np.array([0, 0, 1, 1, 2])
HAND = Labelled(["a", "b", "c"], 0, TARGETS, P, np.arange(5))


def test_figures_per_class():
    found = metrics.capture_metrics(HAND)
    assert found["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 1]]
    assert found["accuracy"] == pytest.approx(0.8)
    b = found["per_class"]["b"]
    assert (b["precision"], b["recall"], b["specificity"]) == (pytest.approx(2 / 3), 1.0, pytest.approx(2 / 3))
    assert b["f1"] == pytest.approx(0.8)
    assert b["auc"] == pytest.approx(5.5 / 6)  # six pairs: five in order, one tied
    assert found["per_class"]["a"]["recall"] == pytest.approx(0.5)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0.8 + 1) / 3)
    # a: (0.8, 0.2) against (0.2, 0.1, 0.1): five in order and one tied; c: one against four, all in order
    assert found["macro_auc"] == pytest.approx((5.5 / 6 + 5.5 / 6 + 1) / 3)


def test_micro_auc_counts_pairs_over_all_labels():
    onehot = np.eye(3)[TARGETS].ravel() == 1
    right, wrong = P.ravel()[onehot], P.ravel()[~onehot]
    pairs = [(r > w) + 0.5 * (r == w) for r in right for w in wrong]
    assert metrics.capture_metrics(HAND)["micro_auc"] == pytest.approx(np.mean(pairs))


def test_calibration():
    found = metrics.calibration(P, TARGETS)
    assert found["ece"] == pytest.approx((2 * abs(0.7 - 0.5) + 3 * abs(0.8 - 1)) / 5, abs=1e-6)
    squares = [0.04 + 0.01 + 0.01, 0.64 + 0.49 + 0.01, 0.04 + 0.09 + 0.01, 0.01 + 0.04 + 0.01, 0.01 + 0.01 + 0.04]
    assert found["brier"] == pytest.approx(np.mean(squares))
    assert found["log_loss"] == pytest.approx(-np.mean(np.log([0.8, 0.2, 0.7, 0.8, 0.8])))


def test_what_was_before_temperature_scaling_is_found_again():
    logits = np.random.default_rng(0).normal(0, 3, (50, 4))
    plain = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scaled = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(axis=1, keepdims=True)
    assert np.allclose(metrics.uncalibrated(scaled, 2.5), plain)


def test_temperature_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(4, p=row) for row in p])
    assert metrics.fit_temperature(3.0 * logits, targets) == pytest.approx(3.0, rel=0.05)


def test_all_versus_benign():
    found = metrics.all_versus_benign(HAND)  # P(ALL): 0.2, 0.8 benign; 0.8, 0.9, 0.9 ALL
    assert (found["sensitivity"]["hits"], found["sensitivity"]["of"]) == (3, 3)
    assert (found["specificity"]["hits"], found["specificity"]["of"]) == (1, 2)
    assert found["auc"] == pytest.approx(5.5 / 6)
    positive, score = np.array([True, True, True, False, False]), np.array([0.9, 0.9, 0.8, 0.8, 0.2])
    assert metrics.sensitivity_at(positive, score, 0.95) == pytest.approx(2 / 3)
    assert metrics.sensitivity_at(positive, score, 0.5) == pytest.approx(1.0)
    assert metrics.sensitivity_at(positive[:3], score[:3], 0.5) is None


def test_an_interval_of_independent_captures_is_clopper_and_pearsons():
    right = np.arange(40) < 33
    exact = binomtest(33, 40).proportion_ci(0.95, method="exact")
    assert metrics.interval(right, np.arange(40)) == pytest.approx([exact.low, exact.high])
    assert metrics.share(33, 40)["interval"] == pytest.approx([exact.low, exact.high])


def test_captures_of_one_patient_that_are_all_alike_count_once():
    patients = np.repeat(np.arange(10), 20)
    right = np.repeat(np.arange(10) < 7, 20)  # seven patients wholly right, three wholly wrong
    alike = binomtest(7, 10).proportion_ci(0.95, method="exact")
    found = metrics.interval(right, patients)
    # the design effect has n - 1 clusters in it: 9/10 of ten clusters
    nine = metrics._clopper_pearson(0.7 * 9, 9)
    assert found == pytest.approx(nine)
    assert found[0] <= alike.low
    assert found[1] >= alike.high
    independent = metrics.interval(right, np.arange(200))
    assert independent[1] - independent[0] < (found[1] - found[0]) / 2


def test_captures_that_differ_within_patients_are_worth_more_than_patients():
    patients = np.repeat(np.arange(10), 20)
    right = np.tile(np.arange(20) < 14, 10)  # 70 % of every patient: patients tell nothing
    found = metrics.interval(right, patients)
    exact = binomtest(140, 200).proportion_ci(0.95, method="exact")
    assert found == pytest.approx([exact.low, exact.high])


def test_where_all_are_right_patients_count():
    found = metrics.interval(np.ones(200, bool), np.repeat(np.arange(10), 20))
    exact = binomtest(10, 10).proportion_ci(0.95, method="exact")
    assert found == pytest.approx([exact.low, 1.0])


def test_patients_by_the_case_rule():
    targets = np.repeat([0, 0, 1, 2, 1], 4)
    p_all = np.repeat([0.1, 0.6, 0.9, 0.8, 0.2], 4)
    p = np.stack([1 - p_all, p_all * np.repeat([0.5, 0.5, 0.9, 0.9, 0.5], 4), np.zeros(20)], axis=1)
    p[:, 2] = 1 - p[:, 0] - p[:, 1]
    of = Labelled(["Benign", "Pre", "Pro"], 0, targets, p, np.repeat(list("vwxyz"), 4).tolist())
    found = metrics.patient_metrics(CasePolicy(benign_at_most=0.4, all_at_least=0.7, min_captures=3), of)
    assert found["verdicts"]["Benign"] == {"benign": 1, "all": 0, "indeterminate": 1, "insufficient": 0}
    assert (found["verdicts_right"], found["subtypes_right"], found["subtypes_of"]) == (3, 1, 2)
    assert (found["sensitivity"]["hits"], found["sensitivity"]["of"]) == (2, 3)  # z was missed
    assert (found["specificity"]["hits"], found["specificity"]["of"]) == (2, 2)


def cases(scores: list[tuple[int, float]]) -> Labelled:
    """A case of three captures for each (label, score)."""
    p = np.repeat([score for _, score in scores], 3)
    return Labelled(
        ["Benign", "Pro"], 0, np.repeat([label for label, _ in scores], 3), np.stack([1 - p, p], axis=1),
        np.repeat(np.arange(len(scores)), 3),
    )  # fmt: skip


def test_only_captures_that_count_make_thresholds_and_verdicts():
    """Each benign patient has a field without a leukocyte that the network takes for ALL, each ALL patient one that it
    takes for benign.
    """
    of = cases([(0, 0.1), (0, 0.2), (1, 0.8), (1, 0.9)])
    marked = replace(of, marks=[["no_nucleated_cell"] if row % 3 == 2 else ["pale"] for row in range(12)])
    marked.probabilities[2::3] = marked.probabilities[2::3, ::-1]
    table = CaseTable(min_captures=2)
    policy, basis = fit_case_policy(marked, table, "patient")
    clean, _ = fit_case_policy(cases([(0, 0.1), (0, 0.2), (1, 0.8), (1, 0.9)]), table, "patient")
    assert (policy.benign_at_most, policy.all_at_least) == pytest.approx((clean.benign_at_most, clean.all_at_least))
    assert (basis["sensitivity"]["hits"], basis["sensitivity"]["of"]) == (2, 2)
    assert metrics.patient_metrics(policy, marked)["verdicts"]["Pro"]["all"] == 2
    kept, _ = fit_case_policy(marked, CaseTable(min_captures=2, exclude=(MarkCode.NOVEL,)), "patient")
    assert kept.exclude == (MarkCode.NOVEL,)
    assert abs(kept.all_at_least - policy.all_at_least) > 0.01
    nothing = replace(of, marks=[["novel"]] * 12)
    policy, basis = fit_case_policy(nothing, table, "patient")
    assert basis["sensitivity"] == basis["specificity"] == metrics.share(0, 0)
    assert sum(one["insufficient"] for one in metrics.patient_metrics(policy, nothing)["verdicts"].values()) == 4


def test_thresholds_of_cases_that_do_not_overlap_leave_the_gap_indeterminate():
    policy, basis = fit_case_policy(cases([(0, 0.1), (0, 0.3), (1, 0.6), (1, 0.9)]), CaseTable(), "patient")
    assert (policy.benign_at_most, policy.all_at_least) == (pytest.approx(0.4), pytest.approx(0.5))
    assert basis["sensitivity"]["hits"] == basis["sensitivity"]["of"] == 2
    assert basis["indeterminate"] == 0


def test_thresholds_of_cases_that_overlap_call_no_case_wrongly():
    scores = [(0, 0.1), (0, 0.2), (0, 0.6), (1, 0.5), (1, 0.8), (1, 0.9)]
    policy, basis = fit_case_policy(cases(scores), CaseTable(), "patient")
    assert 0.2 < policy.benign_at_most < 0.5
    assert 0.6 < policy.all_at_least < 0.8
    assert basis["indeterminate"] == 2


def test_a_target_lets_go_of_as_many_cases_as_it_says():
    scores = [(0, 0.2)] * 10 + [(1, 0.05)] + [(1, 0.8)] * 9
    strict, _ = fit_case_policy(cases(scores), CaseTable(target_sensitivity=0.995), "patient")
    assert strict.benign_at_most < 0.05
    lax, basis = fit_case_policy(cases(scores), CaseTable(target_sensitivity=0.9), "patient")
    assert lax.benign_at_most == pytest.approx(0.4)
    assert basis["sensitivity"]["hits"] == 9


@pytest.mark.parametrize("rule", ["mean", "positive_share", "top_k_mean", "noisy_or"])
def test_thresholds_are_fitted_for_the_rule_that_the_recipe_names(rule: RuleName) -> None:
    policy, basis = fit_case_policy(
        cases([(0, 0.1), (0, 0.3), (1, 0.6), (1, 0.9)]), CaseTable(rule=rule, top_k=2, link=0.2), "patient"
    )
    assert (policy.rule, policy.top_k, policy.link) == (rule, 2, 0.2)
    assert basis["sensitivity"]["hits"] == 2
    assert basis["specificity"]["hits"] == 2


def test_what_so_many_cases_can_promise():
    few = promise(metrics.share(40, 40), 0.995, "patient")
    assert "40 of 40 patients with ALL were not called benign" in few
    assert "too few to promise the target of 99.5%" in few
    assert "736 patients" in few  # (1 - 0.995)^736 < 2.5 %
    assert 0.995**736 <= 0.025 < 0.995**735
    assert "met with confidence" in promise(metrics.share(736, 736), 0.995, "patient")
    assert "met with confidence" not in promise(metrics.share(735, 735), 0.995, "patient")
    assert "No block with ALL was in validation" in promise(metrics.share(0, 0), 0.995, "block")


def test_blocks_hold_captures_of_one_label_in_the_order_of_their_numbers():
    paths = [f"img{number}.png" for number in range(100)]
    targets = np.repeat([0, 1], [60, 40])
    blocks = blocks_of(paths, targets)
    assert np.bincount(blocks).tolist() == [20] * 5
    assert all(len(set(targets[blocks == block])) == 1 for block in range(5))
    assert np.array_equal(blocks, np.sort(blocks))


def test_mcnemar_by_hand():
    first = np.array([True] * 8 + [False] * 2 + [True] * 5)
    second = np.array([False] * 8 + [True] * 2 + [True] * 5)
    found = mcnemar(first, second)
    assert (found["only_first_right"], found["only_second_right"]) == (8, 2)
    assert found["p"] == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert mcnemar(first, first)["p"] == 1.0


def some_traits(count: int, signal: float) -> tuple[Traits, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = np.arange(count) % 3
    colour = rng.normal(128, 10, (count, 6))
    colour[:, 0] += signal * targets
    traits = Traits(
        colour=colour, background=colour[:, :3], stained=colour[:, 3:], sharpness=colour[:, 0],
        corners=rng.normal(0, 1, (count, 288)), bars=[None] * count, hashes=np.arange(count, dtype=np.uint64),
    )  # fmt: skip
    return traits, targets


def test_a_planted_shortcut_is_found_and_noise_is_not():
    traits, targets = some_traits(300, signal=60)
    found = shortcuts.cross_validated(traits, targets, np.arange(300))
    assert found[shortcuts.COLOUR_LINEAR] > 0.95
    assert found[shortcuts.COLOUR_TREES] > 0.9
    assert found[shortcuts.CORNER_LINEAR] < 0.5
    split = shortcuts.on_split(traits, targets, np.arange(200), np.arange(200, 300))
    assert split[shortcuts.COLOUR_LINEAR] > 0.95
    plain, _ = some_traits(300, signal=0)
    assert max(shortcuts.cross_validated(plain, targets, np.arange(300)).values()) < 0.45


def test_too_few_captures_for_a_classifier_leave_it_out():
    traits, targets = some_traits(12, signal=60)
    assert shortcuts.cross_validated(traits, targets, np.arange(12)) == {}
    assert shortcuts.CORNER_LINEAR not in shortcuts.on_split(traits, targets, np.arange(9), np.arange(9, 12))


def test_a_network_that_knows_where_it_is_wrong():
    right = np.array([True, True, True, True, False, False, False])
    confidence = np.array([0.99, 0.95, 0.8, 0.99, 0.95, 0.6, 0.99])
    novel = np.array([False, False, False, True, True, False, False])
    assert warned(right, confidence, novel) == {
        "below": 0.9,
        "of_wrong": pytest.approx(2 / 3),
        "of_right": 0.5,
        "novel_of_wrong": pytest.approx(1 / 3),
        "novel_of_right": 0.25,
    }
    assert warned(right[:2], confidence[:2], novel[:2])["of_wrong"] is None
