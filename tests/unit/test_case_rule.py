"""The case rule: by hand, at its thresholds, and the same whatever the order of the captures."""

import itertools
import random
import re
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from contract.case_policy import RULE_PARAMETERS, RULES, CasePolicy, RuleName
from contract.case_rule import (
    BOOTSTRAP_DRAWS,
    BOOTSTRAP_SEED,
    CAPTURES_AT_ONCE,
    URGENCY,
    CaseCounts,
    CaseResult,
    Emptied,
    JudgedCapture,
    Reason,
    bootstrap_interval,
    bootstrap_scores,
    judge,
    judge_emptied,
)
from contract.states import Verdict
from tests.support.commands import REPOSITORY

LABELS = ["Benign", "Early", "Pre", "Pro"]
POLICY = CasePolicy(benign_at_most=0.25, all_at_least=0.75, min_captures=3)


def counts(screened: int, *, rejected: int = 0, quarantined: int = 0) -> CaseCounts:
    return CaseCounts(screened + rejected + quarantined, screened, rejected, quarantined)


def judged(
    policy: CasePolicy, rows: NDArray[np.float64], how_ended: CaseCounts, *, labels: Sequence[str] = tuple(LABELS),
    digests: Sequence[str] | None = None, marks: Sequence[Sequence[str]] | None = None, identity_conflict: bool = False,
) -> CaseResult:  # fmt: skip
    """The result of a case with these probabilities [captures, labels]."""
    captures = [
        JudgedCapture(row, digests[place] if digests else None, marks[place] if marks else ())
        for place, row in enumerate(rows)
    ]
    return judge(
        captures, policy=policy, labels=labels, benign_label="Benign", counts=how_ended,
        identity_conflict=identity_conflict,
    )  # fmt: skip


def case(*rows: tuple[float, float, float, float], policy: CasePolicy = POLICY, rejected: int = 0) -> CaseResult:
    probabilities = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return judged(policy, probabilities, counts(len(rows), rejected=rejected))


def scored(score: float, *, captures: int = 4, policy: CasePolicy = POLICY, rejected: int = 0) -> CaseResult:
    """A case whose captures all have this P(ALL)."""
    return case(*[(1 - score, score, 0.0, 0.0)] * captures, policy=policy, rejected=rejected)


def codes(result: CaseResult) -> list[str]:
    return [reason.code for reason in result.reasons]


@st.composite
def probabilities(draw: st.DrawFn, min_size: int = 1, max_size: int = 12) -> NDArray[np.float64]:
    rows = draw(
        st.lists(
            st.lists(st.floats(0.001, 1), min_size=4, max_size=4).map(lambda row: np.array(row) / sum(row)),
            min_size=min_size,
            max_size=max_size,
        )
    )
    return np.stack(rows)


def test_a_case_worked_out_by_hand() -> None:
    result = case((0.1, 0.5, 0.3, 0.1), (0.2, 0.2, 0.5, 0.1), (0.0, 0.2, 0.7, 0.1), (0.1, 0.1, 0.7, 0.1))
    assert result.score == pytest.approx((0.9 + 0.8 + 1.0 + 0.9) / 4)
    assert result.verdict is Verdict.ALL
    assert result.subtype == "Pre"
    # shares of Early, Pre, Pro: 1.0, 2.2, 0.4 of 3.6
    assert result.subtype_margin == pytest.approx((2.2 - 1.0) / 3.6)
    assert result.score_low is not None
    assert result.score_high is not None
    assert 0.8 <= result.score_low < result.score < result.score_high <= 1.0
    assert result.priority == pytest.approx(6.9)
    assert codes(result) == ["score_high"]


def test_the_interval_is_that_of_a_bootstrap_over_captures() -> None:
    p_all = np.array([0.0] * 5 + [1.0] * 5)
    result = case(*[(1 - p, p, 0.0, 0.0) for p in p_all])
    # the mean of ten draws of 0 or 1 is binomial(10, 1/2)/10, whose 2.5 and 97.5 percentiles are 0.2 and 0.8
    assert result.score_low == pytest.approx(0.2, abs=0.1)
    assert result.score_high == pytest.approx(0.8, abs=0.1)


ALL_DRAWS_AT_ONCE = CAPTURES_AT_ONCE // BOOTSTRAP_DRAWS
"""As many captures as fit into one slice of the bootstrap; one more makes two slices, the second a short one."""


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("captures", [1, 2, 3, 15, ALL_DRAWS_AT_ONCE, ALL_DRAWS_AT_ONCE + 1, 3_333, 8_192, 8_193])
def test_draws_made_a_few_at_a_time_are_those_made_all_at_once(captures: int, rule: RuleName) -> None:
    policy = CasePolicy(rule=rule, benign_at_most=0.25, all_at_least=0.75)
    p_all = np.random.default_rng(captures).random(captures)
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(0, captures, (BOOTSTRAP_DRAWS, captures))
    at_once = policy.scores(p_all[draws])
    np.testing.assert_array_equal(bootstrap_scores(policy, p_all), at_once, strict=True)
    assert bootstrap_interval(policy, p_all) == tuple(np.percentile(at_once, [2.5, 97.5]))


def test_the_interval_of_50_000_captures_takes_little_memory() -> None:
    p_all = np.random.default_rng(0).random(50_000)
    tracemalloc.start()
    try:
        low, high = bootstrap_interval(POLICY, p_all)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20, "all draws at once take 800 MiB"
    assert low < p_all.mean() < high


def test_captures_that_agree_leave_no_doubt_about_the_score() -> None:
    result = scored(0.5)
    assert (result.score_low, result.score, result.score_high) == (0.5, 0.5, 0.5)


@settings(deadline=None)
@given(probabilities(), st.randoms(use_true_random=False))
def test_the_order_of_the_captures_changes_nothing(rows: NDArray[np.float64], dice: object) -> None:
    order = list(range(len(rows)))
    dice.shuffle(order)  # type: ignore[attr-defined]
    first = judged(POLICY, rows, counts(len(rows)))
    assert judged(POLICY, rows[order], counts(len(rows))) == first


@settings(deadline=None)
@given(probabilities())
def test_a_result_can_be_computed_again_and_comes_out_the_same(rows: NDArray[np.float64]) -> None:
    np.random.seed(1)  # the rule must not depend on anybody's random state
    first = judged(POLICY, rows, counts(len(rows)))
    np.random.seed(2)
    assert judged(POLICY, rows.copy(), counts(len(rows))) == first


@settings(deadline=None)
@given(probabilities(), st.data())
def test_one_capture_more_benign_never_raises_the_score(rows: NDArray[np.float64], data: st.DataObject) -> None:
    which = data.draw(st.integers(0, len(rows) - 1))
    towards = data.draw(st.floats(0, 1))
    before = judged(POLICY, rows, counts(len(rows))).score
    rows[which] = (1 - towards) * rows[which] + towards * np.array([1.0, 0, 0, 0])
    after = judged(POLICY, rows, counts(len(rows))).score
    assert before is not None
    assert after is not None
    assert after <= before + 1e-12


@settings(deadline=None)
@given(probabilities())
def test_another_wholly_benign_capture_never_raises_the_score(rows: NDArray[np.float64]) -> None:
    before = judged(POLICY, rows, counts(len(rows))).score
    more = np.vstack([rows, [[1.0, 0, 0, 0]]])
    after = judged(POLICY, more, counts(len(more))).score
    assert before is not None
    assert after is not None
    assert after <= before + 1e-12


@settings(deadline=None)
@given(probabilities(min_size=3), st.floats(0, 1), st.floats(0, 1))
def test_score_interval_and_margin_are_fractions(rows: NDArray[np.float64], one: float, other: float) -> None:
    policy = CasePolicy(benign_at_most=min(one, other), all_at_least=max(one, other))
    result = judged(policy, rows, counts(len(rows)))
    values = [result.score_low, result.score, result.score_high, result.subtype_margin]
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in values if value is not None)
    assert (result.subtype is None) is (result.subtype_margin is None)


@pytest.mark.parametrize(
    ("score", "verdict", "code"),
    [
        (0.0, Verdict.BENIGN, "score_low"),
        (0.25, Verdict.BENIGN, "score_low"),
        (0.25 + 1e-9, Verdict.INDETERMINATE, "score_between"),
        (0.5, Verdict.INDETERMINATE, "score_between"),
        (0.75 - 1e-9, Verdict.INDETERMINATE, "score_between"),
        (0.75, Verdict.ALL, "score_high"),
        (1.0, Verdict.ALL, "score_high"),
    ],
)
def test_a_score_on_a_threshold_belongs_to_the_verdict_beyond_it(score: float, verdict: Verdict, code: str) -> None:
    result = scored(score)
    assert result.verdict is verdict
    assert codes(result) == [code]
    assert (result.subtype is not None) is (verdict in (Verdict.ALL, Verdict.INDETERMINATE))


def test_where_both_thresholds_meet_the_doubt_goes_to_all() -> None:
    policy = CasePolicy(benign_at_most=0.5, all_at_least=0.5)
    assert scored(0.5, policy=policy).verdict is Verdict.ALL


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="benign_at_most must not exceed all_at_least"):
        CasePolicy(benign_at_most=0.6, all_at_least=0.5)


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_too_few_captures_are_insufficient_whatever_they_show(score: float) -> None:
    result = scored(score, captures=2)
    assert result.verdict is Verdict.INSUFFICIENT
    assert result.score == score
    assert result.subtype is None
    assert codes(result) == ["too_few_captures"]
    assert scored(score, captures=3).verdict is not Verdict.INSUFFICIENT


def test_without_a_usable_capture_there_is_no_score() -> None:
    result = case(rejected=4)
    assert result.verdict is Verdict.INSUFFICIENT
    assert (result.score, result.score_low, result.score_high, result.subtype, result.subtype_margin) == (None,) * 5
    assert codes(result) == ["no_usable_capture", "incomplete"]


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_a_case_with_captures_missing_says_how_many(score: float) -> None:
    result = judged(POLICY, np.array([[1 - score, score, 0, 0]] * 4), counts(4, rejected=2, quarantined=1))
    assert codes(result)[1:] == ["incomplete"]
    assert "3 of 7" in result.reasons[1].sentence


def test_the_benign_label_need_not_be_the_first() -> None:
    rows = np.array([[0.7, 0.1, 0.2]] * 3)
    result = judged(POLICY, rows, counts(3), labels=["Pro", "Benign", "Pre"])
    assert result.score == pytest.approx(0.9)
    assert result.subtype == "Pro"
    assert result.subtype_margin == pytest.approx((0.7 - 0.2) / 0.9)


def test_equal_subtypes_have_no_margin_and_the_first_label_is_named() -> None:
    result = case(*[(0.1, 0.3, 0.3, 0.3)] * 3)
    assert result.subtype == "Early"
    assert result.subtype_margin == pytest.approx(0)


def test_the_only_other_label_is_the_subtype_without_doubt() -> None:
    result = judged(POLICY, np.array([[0.1, 0.9]] * 3), counts(3), labels=["Benign", "ALL"])
    assert (result.subtype, result.subtype_margin) == ("ALL", 1.0)


def test_the_review_queue_goes_from_all_over_the_unsettled_to_benign() -> None:
    """Every complete and incomplete case of one verdict comes before every one of the next, whatever the score."""
    kinds = [
        (Verdict.ALL, [0.75, 1.0], 4),
        (Verdict.INDETERMINATE, [0.2501, 0.5, 0.7499], 4),
        (Verdict.INSUFFICIENT, [0.0, 0.5, 1.0], 2),
        (Verdict.BENIGN, [0.0, 0.1, 0.25], 4),
    ]
    groups = []
    for verdict, scores, captures in kinds:
        results = [scored(s, captures=captures, rejected=r) for s in scores for r in (0, 1)]
        assert {one.verdict for one in results} == {verdict}
        groups.append([one.priority for one in results])
    groups[2] += [case().priority, case(rejected=3).priority]
    for before, after in itertools.pairwise(groups):
        assert min(before) > max(after)


@settings(deadline=None)
@given(
    st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1),
    st.integers(0, 1), st.integers(0, 1), st.integers(1, 4), st.integers(1, 4),
)  # fmt: skip
def test_no_thresholds_let_a_case_overtake_a_more_urgent_verdict(
    low: float, high: float, one: float, other: float, lack: int, other_lack: int, n: int, other_n: int
) -> None:
    policy = CasePolicy(benign_at_most=min(low, high), all_at_least=max(low, high))
    order = [Verdict.ALL, Verdict.INDETERMINATE, Verdict.INSUFFICIENT, Verdict.BENIGN]
    first = scored(one, captures=n, policy=policy, rejected=lack)
    second = scored(other, captures=other_n, policy=policy, rejected=other_lack)
    assume(order.index(first.verdict) < order.index(second.verdict))
    assert first.priority > second.priority or first.priority == pytest.approx(second.priority, abs=1e-9)


@pytest.mark.parametrize("captures", [2, 4])
def test_within_a_verdict_the_higher_score_comes_first(captures: int) -> None:
    priorities = [scored(score, captures=captures).priority for score in (0.0, 0.1, 0.2)]
    assert priorities == sorted(priorities)
    assert len(set(priorities)) == 3


@pytest.mark.parametrize(("score", "captures"), [(0.9, 4), (0.5, 4), (0.5, 2), (0.1, 4)])
def test_of_two_equal_cases_the_incomplete_one_is_never_after_the_complete_one(score: float, captures: int) -> None:
    assert scored(score, captures=captures, rejected=2).priority >= scored(score, captures=captures).priority


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_patients_that_may_be_mixed_up_come_before_all_others_with_the_figures_unchanged(score: float) -> None:
    rows = np.array([[1 - score, score, 0, 0]] * 4)
    plain, mixed_up = (judged(POLICY, rows, counts(4), identity_conflict=conflict) for conflict in (False, True))
    assert codes(mixed_up) == ["identity_conflict", *codes(plain)]
    assert mixed_up.priority > scored(1.0).priority
    assert (mixed_up.verdict, mixed_up.score, mixed_up.subtype) == (plain.verdict, plain.score, plain.subtype)


# The other rules, and copies


BY_HAND = np.array([[0.1, 0.2, 0.6, 0.1], [0.7, 0.1, 0.1, 0.1], [0.2, 0.1, 0.5, 0.2], [0.2, 0.1, 0.5, 0.2]])
"""The worked example of docs/case-rule.md."""


@pytest.mark.parametrize(
    ("rule", "score", "verdict"),
    [
        ("mean", 0.6667, Verdict.ALL),
        ("positive_share", 0.6667, Verdict.ALL),
        ("top_k_mean", 0.6667, Verdict.ALL),
        ("noisy_or", 0.1879, Verdict.BENIGN),
    ],
)
def test_the_example_of_the_documentation(rule: RuleName, score: float, verdict: Verdict) -> None:
    policy = CasePolicy(rule=rule, benign_at_most=0.4, all_at_least=0.6)
    result = judged(policy, BY_HAND, counts(4), digests=["a", "b", "c", "c"])
    assert result.score == pytest.approx(score, abs=5e-5)
    assert result.verdict is verdict
    assert codes(result)[-1] == "duplicates"
    page = (REPOSITORY / "docs" / "case-rule.md").read_text()
    assert f"{score}" in page
    if verdict is Verdict.ALL:
        assert (result.subtype, round(result.subtype_margin or 0, 6), round(result.priority, 4)) == ("Pre", 0.4, 6.6667)


def test_every_rule_and_reason_is_documented() -> None:
    page = (REPOSITORY / "docs" / "case-rule.md").read_text()
    source = (REPOSITORY / "contract" / "case_rule.py").read_text()
    for code in [*RULES, *RULE_PARAMETERS, *re.findall(r'Reason\(\s*"(\w+)"', source)]:
        assert f"`{code}`" in page, code


def test_the_top_ones_are_not_diluted_by_a_long_benign_rest() -> None:
    rows = [(0.1, 0.9, 0.0, 0.0)] * 5 + [(1.0, 0.0, 0.0, 0.0)] * 45
    policy = POLICY.model_copy(update={"rule": "top_k_mean"})
    assert case(*rows, policy=policy).score == pytest.approx(0.9)
    assert case(*rows).score == pytest.approx(0.09)


@settings(deadline=None, max_examples=50)
@given(probabilities(), st.randoms(use_true_random=False), st.sampled_from(sorted(RULES)))
def test_of_every_rule_the_order_changes_nothing_and_scores_are_fractions(
    rows: NDArray[np.float64], dice: random.Random, rule: RuleName
) -> None:
    policy = POLICY.model_copy(update={"rule": rule})
    order = list(range(len(rows)))
    dice.shuffle(order)
    names = [str(number // 2) for number in order]
    first = judged(policy, rows[order], counts(len(rows)), digests=names)
    again = np.argsort(order)
    digests = [names[number] for number in again]
    assert judged(policy, rows, counts(len(rows)), digests=digests) == first
    assert first.score is not None
    assert -1e-9 <= first.score <= 1 + 1e-9


@settings(deadline=None, max_examples=50)
@given(probabilities(), st.sampled_from(sorted(RULES)), st.data())
def test_of_every_rule_a_capture_more_like_all_never_lowers_the_score(
    rows: NDArray[np.float64], rule: RuleName, data: st.DataObject
) -> None:
    policy = POLICY.model_copy(update={"rule": rule})
    before = judged(policy, rows, counts(len(rows))).score
    which, towards = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.floats(0, 1))
    rows[which] = (1 - towards) * rows[which] + towards * np.array([0.0, 0, 0, 1.0])
    after = judged(policy, rows, counts(len(rows))).score
    assert before is not None
    assert after is not None
    assert after >= before - 1e-12


@settings(deadline=None, max_examples=50)
@given(probabilities(), st.integers(1, 4))
def test_copies_of_a_capture_count_once(rows: NDArray[np.float64], copies: int) -> None:
    digests = [str(number) for number in range(len(rows))]
    once = judged(POLICY, rows, counts(len(rows)), digests=digests)
    more, names = np.vstack([rows, *[rows[:1]] * copies]), [*digests, *["0"] * copies]
    result = judged(POLICY, more, counts(len(more)), digests=names)
    assert (result.score, result.score_low, result.verdict) == (once.score, once.score_low, once.verdict)
    assert codes(result) == [*codes(once), "duplicates"]


# Captures that do not count


def marked(*rows: tuple[tuple[float, float, float, float], list[str]]) -> CaseResult:
    probabilities = np.array([row for row, _ in rows], dtype=np.float64).reshape(-1, 4)
    return judged(POLICY, probabilities, counts(len(rows)), marks=[marks for _, marks in rows])


BENIGN_ROW, PRE_ROW = (0.95, 0.02, 0.02, 0.01), (0.1, 0.1, 0.7, 0.1)
NO_CELL = "no_nucleated_cell"


def test_excluded_captures_do_not_dilute_the_score_and_the_case_says_so() -> None:
    result = marked(*[(PRE_ROW, [])] * 3, (BENIGN_ROW, ["empty_field", "pale"]), (BENIGN_ROW, ["out_of_focus"]))
    assert (result.verdict, result.score, result.excluded) == (Verdict.ALL, pytest.approx(0.9), 2)
    assert result.reasons[-1].code == "excluded"
    assert result.reasons[-1].sentence == "2 of 5 screened captures do not count: 1 empty field, 1 out of focus"


def test_marks_that_exclude_nothing_change_nothing() -> None:
    plain = marked(*[(PRE_ROW, [])] * 4)
    assert marked(*[(PRE_ROW, ["pale", "burnt_in", "too_bright"])] * 4) == plain


def test_a_case_all_of_whose_captures_are_excluded_says_so_first_and_has_no_score() -> None:
    result = marked(*[(PRE_ROW, ["novel"])] * 4)
    assert (result.verdict, result.score, result.excluded, result.novel) == (Verdict.INSUFFICIENT, None, 4, 4)
    assert codes(result) == ["mostly_excluded"]
    assert result.priority > scored(0.5, captures=2).priority, "before the insufficient case that is merely small"


def test_a_case_is_not_benign_on_the_few_captures_that_are_left() -> None:
    result = marked(*[(BENIGN_ROW, [])] * 3, *[(BENIGN_ROW, ["out_of_focus"])] * 4)
    assert result.verdict is Verdict.INSUFFICIENT
    assert codes(result) == ["mostly_excluded", "benign_on_few", "score_low"]


def test_all_on_few_captures_stays_all() -> None:
    result = marked(*[(PRE_ROW, [])] * 3, *[(BENIGN_ROW, ["out_of_focus"])] * 4)
    assert (result.verdict, codes(result)[0]) == (Verdict.ALL, "mostly_excluded")


def test_an_exclusion_that_would_make_a_case_benign_leaves_it_open() -> None:
    result = marked(*[(BENIGN_ROW, [])] * 5, *[(PRE_ROW, ["novel"])] * 4)
    assert (result.verdict, result.subtype) == (Verdict.INDETERMINATE, "Early")
    assert codes(result)[0] == "exclusions_decide"
    assert "0.428" in result.reasons[0].sentence, "(5 x 0.05 + 4 x 0.9) / 9"


def test_empty_fields_do_not_outweigh_an_excluded_capture_that_shows_blasts() -> None:
    excluded = [*[(PRE_ROW, ["novel"])] * 4, *[(BENIGN_ROW, [NO_CELL])] * 9]
    result = marked(*[(BENIGN_ROW, [])] * 5, *excluded)
    assert result.verdict is Verdict.INDETERMINATE, "more urgent than insufficient, though most are excluded"
    assert codes(result)[:2] == ["mostly_excluded", "exclusions_decide"]
    assert "0.428" in result.reasons[1].sentence, "(5 x 0.05 + 4 x 0.9) / 9, without the nine"


@settings(deadline=None)
@given(probabilities(max_size=10), st.data())
def test_no_exclusion_makes_a_case_benign(rows: NDArray[np.float64], data: st.DataObject) -> None:
    marks = data.draw(
        st.lists(st.sampled_from([[], ["novel"], ["out_of_focus"]]), min_size=len(rows), max_size=len(rows))
    )
    policy = POLICY.model_copy(update={"benign_at_most": 0.7, "all_at_least": 0.8})
    without = judged(policy, rows, counts(len(rows)))
    result = judged(policy, rows, counts(len(rows)), marks=marks)
    assert result.verdict is not Verdict.BENIGN or without.verdict is Verdict.BENIGN
    assert result.excluded == sum(map(bool, marks))


@settings(deadline=None)
@given(
    probabilities(max_size=8), probabilities(max_size=8), st.sampled_from(list(RULES)), st.floats(0, 1),
    st.floats(0, 1), st.integers(1, 4), st.data(),
)  # fmt: skip
def test_fields_without_a_nucleated_cell_never_make_a_case_benign(
    rows: NDArray[np.float64], empty: NDArray[np.float64], rule: RuleName, one: float, other: float, least: int,
    data: st.DataObject,
) -> None:  # fmt: skip
    """Whatever the network says of them, however many they are: beside captures that count, and alone. All that they
    can do is to raise a doubt about captures that look benign; they never take one away.
    """
    policy = CasePolicy(rule=rule, benign_at_most=min(one, other), all_at_least=max(one, other), min_captures=least)
    marks: list[list[str]] = data.draw(
        st.lists(st.sampled_from([[], [], ["novel"], [NO_CELL]]), min_size=len(rows), max_size=len(rows))
    )
    before = judged(policy, rows, counts(len(rows)), marks=marks)
    more = [*marks, *[[NO_CELL]] * len(empty)]
    after = judged(policy, np.concatenate([rows, empty]), counts(len(more)), marks=more)
    assert after.verdict is before.verdict or "score_low" in codes(before)
    assert URGENCY[after.verdict] >= URGENCY[before.verdict]
    assert (after.score, after.counting) == (before.score, before.counting)
    alone = judged(policy, empty, counts(len(empty)), marks=[[NO_CELL]] * len(empty))
    assert (alone.verdict, alone.score) == (Verdict.INSUFFICIENT, None)


def test_cells_are_counted_in_the_captures_that_count_each_file_once_and_never_better_than_known() -> None:
    def of(*captures: tuple[str, int | None, list[str]]) -> tuple[int, int | None, bool]:
        screened = [JudgedCapture(PRE_ROW, digest, marks, cells) for digest, cells, marks in captures]
        result = judge(screened, policy=POLICY, labels=LABELS, benign_label="Benign", counts=counts(len(screened)))
        return result.counting, result.nucleated_cells, result.cells_at_least

    assert of(("a", 5, []), ("b", 7, []), ("c", 9, ["novel"])) == (2, 12, False)
    assert of(("a", 5, []), ("a", 5, []), ("b", 0, [])) == (2, 5, False), "a copy has no cells of its own"
    assert of(("a", None, []), ("a", 5, [])) == of(("a", 5, []), ("a", None, [])) == (1, 5, False)
    assert of(("a", 5, []), ("b", None, [])) == (2, 5, True), "not known is not none"
    assert of(("a", None, []), ("b", None, [])) == (2, None, True)
    assert of(("a", 64, []), ("b", 3, [])) == (2, 67, True), "of no capture more are counted"
    assert of(("a", 3, [NO_CELL])) == (0, None, False)


# A case without captures


EMPTIED = {
    "nothing is known of the result before": (Emptied("its folder is empty"), None, 3.0),
    "still open": (Emptied("its folder is empty", 4), "still open", 3.0),
    "ALL that nobody signed": (
        Emptied("its folder is empty", 4, Verdict.ALL, "Pre", 0.9),
        "ALL, Pre, reviewed by nobody",
        6.9,
    ),
    "ALL that reviewers signed": (
        Emptied("its folder is empty", 4, Verdict.ALL, "Pre", 0.9, signed=True),
        "ALL, Pre, signed off by the reviewers",
        3.0,
    ),
    "benign": (Emptied("its folder is empty", 4, Verdict.BENIGN, None, 0.1), "Benign, reviewed by nobody", 3.0),
    "indeterminate": (
        Emptied("its folder is empty", 4, Verdict.INDETERMINATE, "Pro", 0.5),
        "indeterminate, Pro, reviewed by nobody",
        4.5,
    ),
}


@pytest.mark.parametrize("what", EMPTIED)
def test_a_case_without_captures_is_insufficient_and_no_less_urgent_than_what_nobody_signed(what: str) -> None:
    emptied, before, priority = EMPTIED[what]
    result = judge_emptied(emptied)
    assert (result.verdict, result.score, result.subtype, result.excluded) == (Verdict.INSUFFICIENT, None, None, 0)
    assert result.priority == pytest.approx(priority)
    assert result.reasons[0] == Reason("no_captures", "no captures are left: its folder is empty")
    told = [Reason("result_before", f"the result before, in run 4, was {before}")] if before else []
    assert result.reasons[1:] == told
