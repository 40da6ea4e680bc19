"""Two runs of one archive, patient by patient."""

from collections import Counter

import pytest
from sklearn.metrics import cohen_kappa_score
from sqlalchemy import Engine

from contract.bundle import Bundle
from contract.errors import NoSuchRun, UsageError
from db.compare import cohens_kappa, compare_runs
from db.recompute import bundle_policy, recompute
from db.results import finish_chunk
from db.submission import submit
from tests.support.runs import claimed, found, outcome, request


def screened(database: Engine, bundle: Bundle, scores: list[float], *, root: bytes = b"/a", rejected: int = 0) -> int:
    """A run of patients with three captures each, all of this P(ALL)."""
    files = [one for n in range(len(scores)) for one in found(f"P{n}", "0.jpg", "1.jpg", "2.jpg")]
    run = submit(database, request(bundle, files, chunk_size=3, everything=True, root=root))
    for chunk_id, p_all in zip(run.chunk_ids, scores, strict=True):
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, p_all, rejected=rejected))
    return run.run_id or 0


def test_patients_that_changed_are_listed_with_the_captures_behind_it(database: Engine, bundle: Bundle) -> None:
    first = screened(database, bundle, [0.1, 0.5, 0.9, 0.9])
    second = screened(database, bundle, [0.1, 0.9, 0.8, 0.2])
    result = compare_runs(database, first, second)
    assert (result.patients, result.only_first, result.only_second) == (4, 0, 0)
    assert result.agreement == {
        ("benign", "benign"): 1, ("indeterminate", "all"): 1, ("all", "all"): 1, ("all", "benign"): 1,
    }  # fmt: skip
    assert [(one.patient, one.before.verdict, one.after.verdict) for one in result.changed] == [
        ("P1", "indeterminate", "all"), ("P3", "all", "benign"),
    ]  # fmt: skip
    moved = result.changed[0].captures[0]
    assert (moved.path, moved.p_all_before, moved.p_all_after) == (
        "P1/0.jpg", pytest.approx(0.5), pytest.approx(0.9),
    )  # fmt: skip


def test_a_capture_that_ended_otherwise_is_named_first(database: Engine, bundle: Bundle) -> None:
    first = screened(database, bundle, [0.9])
    second = screened(database, bundle, [0.1], rejected=1)
    (changed,) = compare_runs(database, first, second).changed
    assert (changed.captures[0].path, changed.captures[0].after) == ("P0/0.jpg", "rejected")


def test_where_no_capture_moved_the_case_rule_did(database: Engine, bundle: Bundle) -> None:
    first, second = screened(database, bundle, [0.5]), screened(database, bundle, [0.5])
    policy = bundle_policy(database, second).model_copy(update={"all_at_least": 0.45})
    recompute(database, second, policy, apply=True, actor="me")
    (changed,) = compare_runs(database, first, second).changed
    assert (changed.after.verdict, changed.captures) == ("all", [])


def test_patients_of_one_run_alone_are_counted(database: Engine, bundle: Bundle) -> None:
    first, second = screened(database, bundle, [0.1]), screened(database, bundle, [0.1, 0.9])
    result = compare_runs(database, first, second)
    assert (result.patients, result.only_first, result.only_second, result.changed) == (1, 0, 1, [])
    assert result.kappa is None
    other_way = compare_runs(database, second, first)
    assert (other_way.patients, other_way.only_first, other_way.only_second) == (1, 1, 0)


def test_a_patient_whose_captures_are_gone_is_a_change(database: Engine, bundle: Bundle) -> None:
    first, second = screened(database, bundle, [0.1, 0.9]), screened(database, bundle, [0.1])
    result = compare_runs(database, first, second)
    assert (result.patients, result.only_first, result.only_second) == (2, 0, 0)
    (changed,) = result.changed
    assert (changed.patient, changed.before.verdict, changed.after.verdict) == ("P1", "all", "insufficient")


def test_only_runs_of_one_archive_can_be_compared(database: Engine, bundle: Bundle) -> None:
    first, other = screened(database, bundle, [0.1]), screened(database, bundle, [0.1], root=b"/b")
    with pytest.raises(UsageError, match="of one archive"):
        compare_runs(database, first, other)
    with pytest.raises(NoSuchRun, match="no run 99"):
        compare_runs(database, first, 99)


@pytest.mark.parametrize(
    ("one", "other"), [("abab", "abba"), ("aabbc", "aabbc"), ("aaab", "aaaa"), ("abcabc", "bcabca")]
)
def test_kappa_is_that_of_scikit_learn(one: str, other: str) -> None:
    assert cohens_kappa(Counter(zip(one, other, strict=True))) == pytest.approx(
        cohen_kappa_score(list(one), list(other))
    )
