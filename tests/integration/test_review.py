"""Review: rows that nobody changes, a state that follows from them, and each case in one reviewer's hand at a time."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from contract.bundle import Bundle
from contract.errors import CaseHeld, NoSuchCase, NoSuchRun, UsageError
from contract.states import CaptureState, EventKind, RejectCode, ReviewAction, ReviewState, Verdict
from db import schema
from db.audit import note
from db.control import cancel
from db.engine import reading, writing
from db.fsck import fsck
from db.models import BundleRow, Case, ReportQueue, Review, Run
from db.opinions import CaseReview
from db.results import finish_chunk
from db.review import Opinion, Reviewer, act, next_case, release
from db.review_queries import case_details, review_list
from db.submission import submit
from tests.support.runs import claimed, digest, found, outcome, request
from tests.support.waiting import wait_until

CONFIRM, OVERRIDE, DEFER = ReviewAction.CONFIRM, ReviewAction.OVERRIDE, ReviewAction.DEFER
COMMENT, SECOND_OPINION = ReviewAction.COMMENT, ReviewAction.SECOND_OPINION
EARLY, PRE, BENIGN = Opinion(Verdict.ALL, "Early"), Opinion(Verdict.ALL, "Pre"), Opinion(Verdict.BENIGN)
ANNA, BEN, CARLA = (Reviewer(name, "1.2.3") for name in ("anna", "ben", "carla"))


def screened(
    database: Engine,
    bundle: Bundle,
    scores: Sequence[float],
    *,
    reviewers: int = 1,
    sign_off: bool = False,
    root: bytes = b"/a",
) -> list[int]:
    """A finished run with a patient for each of these P(ALL); the ids of its cases. Thresholds are 0.4 and 0.6."""
    files = [one for p in range(len(scores)) for one in found(f"P{p:03d}", "0.jpg", "1.jpg")]
    wanted = request(bundle, files, chunk_size=2, everything=True, root=root)
    run = submit(database, replace(wanted, reviewers_required=reviewers, report_at_sign_off=sign_off))
    for chunk_id, p_all in zip(run.chunk_ids, scores, strict=True):
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, p_all))
    with reading(database) as connection:
        return list(connection.execute(select(Case.id).where(Case.run_id == run.run_id).order_by(Case.id)).scalars())


@pytest.fixture
def case(database: Engine, bundle: Bundle) -> int:
    """A case that is proposed as ALL, Pro; one reviewer is wanted."""
    return screened(database, bundle, [0.9])[0]


@pytest.fixture
def case_of_two(database: Engine, bundle: Bundle) -> int:
    """The same, and two reviewers are wanted."""
    return screened(database, bundle, [0.9], reviewers=2)[0]


def take(database: Engine, who: Reviewer, *, run_id: int | None = None, hold_s: float = 600) -> int | None:
    return next_case(database, who, hold_s=hold_s, run_id=run_id)


def final(row: CaseReview) -> tuple[str, str | None, str | None]:
    return row.state, row.final_verdict, row.final_subtype


def reported(database: Engine) -> list[tuple[str, int | None]]:
    with reading(database) as connection:
        rows = connection.execute(select(ReportQueue.cause, ReportQueue.replaces_id).order_by(ReportQueue.id))
        return [(row.cause, row.replaces_id) for row in rows]


# Actions, and where they leave a case


def test_a_confirm_closes_the_case_and_keeps_what_was_confirmed_by_whom(
    database: Engine, bundle: Bundle, case: int
) -> None:
    assert final(act(database, case, CONFIRM, ANNA, comment=" as I see it\n")) == ("closed", "all", "Pro")
    with reading(database) as connection:
        (row,) = connection.execute(select(Review)).all()
    assert (row.case_id, row.action, row.reviewer, row.verdict, row.subtype) == (case, "confirm", "anna", "all", "Pro")
    assert (row.comment, row.bundle_digest, row.software_version) == ("as I see it", bundle.digest, "1.2.3")
    assert row.created_at is not None
    assert review_list(database) == ([], 0)


def test_as_many_reviewers_as_the_run_was_submitted_with_must_agree(database: Engine, case_of_two: int) -> None:
    for _ in range(2):  # the same reviewer twice is one
        after = act(database, case_of_two, CONFIRM, ANNA)
        assert (after.state, after.opinions, after.wanted) == ("partly_signed", 1, 2)
        assert after.final_verdict is after.closed_at is None
    after = act(database, case_of_two, OVERRIDE, BEN, opinion=Opinion(Verdict.ALL, "Pro"), comment="I say so, too")
    assert final(after) == ("closed", "all", "Pro")
    assert after.closed_at == after.last_action_at


def test_where_reviewers_differ_a_third_one_settles_it(database: Engine, case_of_two: int) -> None:
    act(database, case_of_two, CONFIRM, ANNA)
    after = act(database, case_of_two, OVERRIDE, BEN, opinion=PRE, comment="nucleoli")
    assert (after.state, after.opinions, after.agreeing) == ("disagreement", 2, 1)
    assert final(act(database, case_of_two, OVERRIDE, CARLA, opinion=PRE, comment="yes")) == ("closed", "all", "Pre")


def test_who_changes_her_mind_acts_again(database: Engine, case_of_two: int) -> None:
    act(database, case_of_two, OVERRIDE, ANNA, opinion=BENIGN, comment="no blasts")
    assert act(database, case_of_two, CONFIRM, BEN).state == "disagreement"
    assert final(act(database, case_of_two, CONFIRM, ANNA)) == ("closed", "all", "Pro")


def test_a_second_opinion_opens_a_closed_case_until_two_agree(database: Engine, case: int) -> None:
    act(database, case, CONFIRM, ANNA)
    after = act(database, case, SECOND_OPINION, BEN, comment="look at the nucleoli")
    assert (after.state, after.wanted, after.final_verdict) == ("second_opinion", 2, None)
    assert final(act(database, case, CONFIRM, BEN)) == ("closed", "all", "Pro")


def test_a_deferred_case_waits_behind_all_others(database: Engine, bundle: Bundle) -> None:
    first, second, third = screened(database, bundle, [0.9, 0.8, 0.7])
    assert act(database, first, DEFER, ANNA, comment="flow cytometry is not back").state == "deferred"
    act(database, second, DEFER, ANNA)
    assert [row.case_id for row in review_list(database)[0]] == [third, first, second]
    assert take(database, ANNA) == third
    act(database, third, CONFIRM, ANNA)
    assert take(database, ANNA) == first, "the one that was deferred first"
    act(database, first, DEFER, ANNA)
    assert take(database, ANNA) == second, "and not the same again"
    assert act(database, first, COMMENT, ANNA, comment="it is back").state == "waiting"


def test_a_closed_case_cannot_be_deferred(database: Engine, case: int) -> None:
    act(database, case, CONFIRM, ANNA)
    with pytest.raises(UsageError, match="second-opinion"):
        act(database, case, DEFER, BEN)


def test_a_confirm_no_longer_counts_when_the_result_has_changed(database: Engine, bundle: Bundle) -> None:
    confirmed, overridden = screened(database, bundle, [0.9, 0.8])
    act(database, confirmed, CONFIRM, ANNA)
    act(database, overridden, OVERRIDE, ANNA, opinion=EARLY, comment="small blasts")
    with writing(database) as connection:
        connection.execute(update(Case).values(subtype="Pre"))
    (row,) = review_list(database)[0]
    assert (row.case_id, row.state, row.opinions) == (confirmed, "waiting", 0)
    assert take(database, ANNA) == confirmed, "she has not seen what there is now"


def test_a_confirm_no_longer_counts_when_patients_were_mixed_up(database: Engine, bundle: Bundle) -> None:
    """The second patient's last capture turns out to be one of the first's after that one was signed."""
    files = [one for name in ("P1", "P2") for one in found(name, "0.jpg", "1.jpg")]
    first, second = (claimed(database, one) for one in submit(database, request(bundle, files, chunk_size=2)).chunk_ids)
    finish_chunk(database, first, outcome(first))
    case = take(database, ANNA) or 0
    assert act(database, case, CONFIRM, ANNA).state == "closed"
    ended = outcome(second)
    ended.screened[-1] = replace(ended.screened[-1], sha256=digest(first.captures[-1].path))
    finish_chunk(database, second, ended)
    assert [row.state for row in review_list(database)[0]] == ["waiting", "waiting"]
    assert len(case_details(database, case, captures=5).conflicts) == 1
    assert act(database, case, CONFIRM, ANNA).state == "closed", "now she knows"


@pytest.mark.parametrize(
    ("opinion", "comment", "problem"),
    [
        (BENIGN, None, "say why"),
        (BENIGN, "  ", "say why"),
        (BENIGN, "\x1b[2Kforged", "cannot be printed"),
        (None, "why", "needs a verdict"),
        (Opinion(Verdict.ALL, "Late"), "why", "it has Early, Pre, Pro"),
        (Opinion(Verdict.ALL, "Benign"), "why", "it has Early, Pre, Pro"),
        (Opinion(Verdict.BENIGN, "Pro"), "why", "has no subtype"),
    ],
)
def test_an_override_says_what_and_why(
    database: Engine, case: int, opinion: Opinion | None, comment: str | None, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        act(database, case, OVERRIDE, ANNA, opinion=opinion, comment=comment)
    assert case_details(database, case, captures=0).history == ()


def test_a_subtype_that_is_not_known_is_not_made_up_but_the_only_one_is_taken(database: Engine, case: int) -> None:
    unknown = act(database, case, OVERRIDE, ANNA, opinion=Opinion(Verdict.ALL), comment="blasts")
    assert final(unknown) == ("closed", "all", None)
    with writing(database) as connection:
        manifest = connection.execute(select(BundleRow.manifest)).scalar_one()
        connection.execute(update(BundleRow).values(manifest={**manifest, "labels": ["Benign", "Pro"]}))
    only = act(database, case, OVERRIDE, ANNA, opinion=Opinion(Verdict.ALL), comment="blasts")
    assert final(only) == ("closed", "all", "Pro")


def test_what_cannot_be_acted_on_is_said(database: Engine, bundle: Bundle, case: int) -> None:
    with pytest.raises(NoSuchCase, match="no case 99"):
        act(database, 99, CONFIRM, ANNA)
    with pytest.raises(NoSuchCase, match="no case 99"):
        case_details(database, 99, captures=1)
    with pytest.raises(NoSuchRun, match="no run 99"):
        review_list(database, run_id=99)
    with pytest.raises(UsageError, match="needs its text"):
        act(database, case, COMMENT, ANNA)
    for name in ("", " ", "an\x1bna"):
        with pytest.raises(UsageError, match="name"):
            Reviewer(name, "1.2.3")
    with writing(database) as connection:
        connection.execute(update(Case).values(state="open", verdict=None))
    with pytest.raises(UsageError, match="no result yet"):
        act(database, case, CONFIRM, ANNA)


# Append-only


@pytest.mark.parametrize(
    "change", [update(Review).values(reviewer="me"), delete(Review), text("TRUNCATE review CASCADE")]
)
def test_the_database_refuses_to_change_what_was_done(database: Engine, case: int, change: Any) -> None:
    if "TRUNCATE" in str(change) and database.dialect.name == "sqlite":
        pytest.skip("SQLite has no TRUNCATE")
    act(database, case, CONFIRM, ANNA)
    with pytest.raises(IntegrityError, match="append-only"), writing(database) as connection:
        connection.execute(change)
    assert len(case_details(database, case, captures=0).history) == 1


def test_a_run_can_be_purged_with_its_reviews(database: Engine, case: int) -> None:
    act(database, case, CONFIRM, ANNA)
    with writing(database) as connection:
        note(connection, EventKind.PURGED, actor="anna", run_id=1)
        connection.execute(delete(Run))
    with reading(database) as connection:
        assert connection.execute(select(func.count()).select_from(Review)).scalar() == 0


def test_an_upgrade_takes_the_protection_away_and_puts_it_back(database: Engine, case: int) -> None:
    act(database, case, CONFIRM, ANNA)
    with writing(database) as connection:
        schema.append_only.unprotect(connection)
        schema.append_only.unprotect(connection)
        connection.execute(update(Review).values(comment="during a migration"))
        schema.append_only.protect(connection)
    with pytest.raises(IntegrityError), writing(database) as connection:
        connection.execute(update(Review).values(comment="afterwards"))


# What other systems are told


def test_other_systems_are_told_of_a_sign_off_of_an_override_and_of_a_case_that_is_open_again(
    database: Engine, case: int
) -> None:
    act(database, case, CONFIRM, ANNA)
    act(database, case, OVERRIDE, ANNA, opinion=Opinion(Verdict.ALL, "Pro"), comment="the same in other words")
    assert reported(database) == [("screened", None), ("signed", 1)], "once"
    act(database, case, OVERRIDE, ANNA, opinion=EARLY, comment="small blasts")
    assert reported(database)[2:] == [("override", 2)]
    act(database, case, SECOND_OPINION, ANNA)
    assert reported(database)[3:] == [("override", 3)], "open again: the proposal stands until two agree"
    act(database, case, DEFER, BEN)
    act(database, case, OVERRIDE, BEN, opinion=EARLY, comment="small blasts, yes")
    assert reported(database)[4:] == [("override", 4)]
    assert all(finding.holds for finding in fsck(database, 1, grace_s=0))


def test_an_opinion_that_closes_nothing_is_not_reported(database: Engine, case_of_two: int) -> None:
    act(database, case_of_two, OVERRIDE, ANNA, opinion=EARLY, comment="small blasts")
    assert reported(database) == [("screened", None)]
    act(database, case_of_two, OVERRIDE, BEN, opinion=EARLY, comment="small blasts")
    assert reported(database) == [("screened", None), ("override", 1)]


def test_by_the_policy_of_sign_off_the_first_report_is_the_sign_off(database: Engine, bundle: Bundle) -> None:
    (case,) = screened(database, bundle, [0.9], reviewers=2, sign_off=True)
    act(database, case, CONFIRM, ANNA)
    act(database, case, DEFER, BEN)
    assert reported(database) == []
    act(database, case, CONFIRM, BEN)
    assert reported(database) == [("signed_off", None)]
    act(database, case, OVERRIDE, ANNA, opinion=EARLY, comment="small blasts")
    act(database, case, CONFIRM, CARLA)
    assert len(reported(database)) == 1, "what was signed off is what it is again"
    for who in (BEN, CARLA):
        act(database, case, OVERRIDE, who, opinion=EARLY, comment="small blasts, yes")
    assert [(cause, replaces is None) for cause, replaces in reported(database)] == [
        ("signed_off", True), ("override", False),
    ]  # fmt: skip


# In one hand at a time


def test_the_most_urgent_case_comes_first_and_stays_in_hand(database: Engine, bundle: Bundle) -> None:
    benign, urgent, unsettled = screened(database, bundle, [0.1, 0.9, 0.5])
    assert [take(database, who) for who in (ANNA, BEN, ANNA, BEN)] == [urgent, unsettled, urgent, unsettled]
    assert [take(database, CARLA), take(database, Reviewer("dora", "1"))] == [benign, None]
    with pytest.raises(CaseHeld, match=rf"anna has case {urgent} in hand until \d\d:\d\d UTC"):
        act(database, urgent, CONFIRM, BEN)
    with pytest.raises(CaseHeld):
        release(database, urgent, BEN)
    act(database, urgent, COMMENT, BEN, comment="the sample was relabelled")
    assert review_list(database)[0][0].holder == "anna", "a comment takes nothing out of her hand"
    assert act(database, urgent, DEFER, ANNA).holder is None
    assert act(database, urgent, CONFIRM, BEN).state == "closed"
    assert [release(database, unsettled, BEN), release(database, unsettled, BEN)] == [True, False]
    assert take(database, ANNA) == unsettled


def test_nobody_is_handed_what_she_has_an_opinion_on_or_has_passed_on(database: Engine, bundle: Bundle) -> None:
    first, second = screened(database, bundle, [0.9, 0.8], reviewers=2)
    act(database, first, CONFIRM, ANNA)
    assert take(database, ANNA) == second
    act(database, second, SECOND_OPINION, ANNA)
    assert take(database, ANNA) is None
    act(database, second, CONFIRM, BEN)
    assert take(database, ANNA) == second, "she has none on it yet, and two must agree"


def test_only_the_run_that_was_asked_for_also_if_it_was_cancelled(database: Engine, bundle: Bundle) -> None:
    (first,) = screened(database, bundle, [0.9])
    (other,) = screened(database, bundle, [0.8], root=b"/b")
    assert [take(database, ANNA, run_id=2), take(database, BEN, run_id=2)] == [other, None]
    cancel(database, 1, actor="test")
    assert take(database, BEN) == first, "what is finished is still to be reviewed"
    assert [row.case_id for row in review_list(database)[0]] == [first, other]


def test_a_hold_that_is_over_is_handed_out_again(database: Engine, case: int) -> None:
    assert take(database, ANNA, hold_s=0.3) == case
    assert wait_until(lambda: take(database, BEN), 10) == case
    with pytest.raises(CaseHeld, match="ben"):
        act(database, case, CONFIRM, ANNA)
    assert case_details(database, case, captures=0).holder == "ben"


def in_threads(count: int, work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            barrier.wait(30)
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_ten_reviewers_at_once_are_handed_ten_cases(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, [0.9] * 12)
    handed: list[int | None] = []
    in_threads(10, lambda number: handed.append(take(database, Reviewer(f"r{number}", "1"))))
    assert None not in handed
    assert len(set(handed)) == 10


def test_of_a_hundred_cases_each_is_handed_to_exactly_one_of_ten_reviewers(database: Engine, bundle: Bundle) -> None:
    cases = screened(database, bundle, [0.5 + number / 250 for number in range(100)])
    handed: list[tuple[int, str]] = []

    def work(number: int) -> None:
        reviewer = Reviewer(f"r{number}", "1")
        while (case := take(database, reviewer)) is not None:
            handed.append((case, reviewer.name))
            act(database, case, CONFIRM, reviewer)

    in_threads(10, work)
    assert sorted(case for case, _ in handed) == cases
    with reading(database) as connection:
        rows = connection.execute(select(Review.case_id, Review.reviewer)).all()
    assert Counter(map(tuple, rows)) == Counter(handed)
    assert len({reviewer for _, reviewer in handed}) > 1
    assert review_list(database, state=ReviewState.CLOSED)[1] == 100


def waits(database: Engine) -> bool:
    with reading(database) as connection:
        return bool(connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar())


@pytest.mark.parametrize("signed_meanwhile", [False, True])
def test_a_case_that_is_locked_is_waited_for_and_looked_at_again(
    database: Engine, bundle: Bundle, case: int, signed_meanwhile: bool
) -> None:
    """Somebody writes to the only case, its result again or an opinion that closes it, while it is being asked for."""
    if database.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    handed: list[int | None] = []
    asking = threading.Thread(target=lambda: handed.append(take(database, ANNA)))
    with writing(database) as connection:
        connection.execute(select(Case.id).with_for_update()).all()
        if signed_meanwhile:
            connection.execute(
                insert(Review).values(case_id=case, action="confirm", reviewer="ben", person="ben", verdict="all",
                                      subtype="Pro", result_version=1, bundle_digest=bundle.digest,
                                      software_version="1")
            )  # fmt: skip
        asking.start()
        wait_until(lambda: waits(database), what="the lock to be waited for")
    asking.join()
    assert handed == [None if signed_meanwhile else case]


def test_a_case_that_is_being_handed_out_holds_nobody_up(database: Engine, bundle: Bundle) -> None:
    if database.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    urgent, next_one = screened(database, bundle, [0.9, 0.8])
    with writing(database) as connection:
        connection.execute(select(Case.id).where(Case.id == urgent).with_for_update()).all()
        assert take(database, ANNA) == next_one


# What is shown


def test_the_list_by_state_and_by_reviewer(database: Engine, bundle: Bundle) -> None:
    closed, held, other = screened(database, bundle, [0.9, 0.8, 0.1])
    act(database, closed, CONFIRM, ANNA)
    assert take(database, ANNA) == held
    assert [row.case_id for row in review_list(database, mine=ANNA)[0]] == [closed, held]
    assert [row.case_id for row in review_list(database, state=ReviewState.CLOSED)[0]] == [closed]
    rows, total = review_list(database, limit=1)
    assert ([row.case_id for row in rows], total) == ([held], 2)
    with reading(database) as connection:
        queue = connection.execute(text("SELECT case_id, review_state FROM review_queue ORDER BY priority DESC")).all()
    assert [tuple(row) for row in queue] == [(held, "waiting"), (other, "waiting")]


def test_a_case_is_shown_with_its_evidence_and_what_was_done(database: Engine, bundle: Bundle) -> None:
    files = found("P1", *(f"{number}.jpg" for number in range(6)))
    (chunk_id,) = submit(database, request(bundle, files, chunk_size=6)).chunk_ids
    lease = claimed(database, chunk_id)
    ended = outcome(lease, rejected=1)
    for number, one in enumerate(ended.screened):
        probabilities = [0.1 * number, 0.0, 0.0, 1 - 0.1 * number]
        ended.screened[number] = replace(one, p_all=probabilities[3], probabilities=probabilities)
    finish_chunk(database, lease, ended)
    act(database, 1, COMMENT, ANNA, comment="smudge cells")
    shown = case_details(database, 1, captures=2)
    assert (shown.patient, shown.archive, shown.wanted) == ("P1", "/a", 1)
    assert shown.verdict is Verdict.ALL
    assert shown.state is ReviewState.WAITING
    assert [one.path_text for one in shown.top_captures] == ["P1/1.jpg", "P1/2.jpg"]
    assert {one.state for one in shown.top_captures} == {CaptureState.SCREENED}
    assert [(one.path_text, one.reject_code) for one in shown.ended_badly] == [("P1/0.jpg", RejectCode.TRUNCATED)]
    assert [(one.reviewer, one.action, one.comment) for one in shown.history] == [("anna", COMMENT, "smudge cells")]
    assert all(isinstance(one.action, ReviewAction) for one in shown.history)
