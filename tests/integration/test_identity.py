"""A patient is a folder of one archive: the same name in another archive is another person."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, select

from contract.bundle import Bundle
from contract.states import ReviewAction, Verdict
from db.engine import reading
from db.fsck import fsck
from db.models import Case, Patient
from db.report_queue import waiting_rows
from db.results import finish_chunk
from db.review import Opinion, Reviewer, act
from db.review_queries import case_details, review_list
from db.reviewed_labels import labelled_cases
from db.run_report import read_run
from db.submission import plan_submit, submit
from tests.support.runs import claimed, digest, found, outcome, request

ANNA = Reviewer("anna", "1.2.3")
FILES = ("0.jpg", "1.jpg", "2.jpg")


def screened(
    database: Engine, bundle: Bundle, root: bytes, *, patient: str = "001", names: tuple[str, ...] = FILES,
    content: bytes | None = None, site: str | None = None,
) -> int:  # fmt: skip
    """A finished run of one patient; `content` tells the bytes of its files from those of the same name elsewhere."""
    run = submit(database, request(bundle, found(patient, *names), root=root, site=site))
    for chunk_id in run.chunk_ids:
        lease = claimed(database, chunk_id)
        ended = outcome(lease)
        if content is not None:
            paths = {one.id: one.path for one in lease.captures}
            ended.screened[:] = [replace(one, sha256=digest(content + paths[one.capture_id])) for one in ended.screened]
        finish_chunk(database, lease, ended)
    assert run.run_id is not None
    return run.run_id


def case_of(database: Engine, run: int) -> int:
    (case,) = read_run(database, run).cases
    return case.case_id


def in_conflict(database: Engine, *runs: int) -> list[bool | None]:
    return [case.identity_conflict for run in runs for case in read_run(database, run).cases]


def test_the_same_folder_in_two_archives_is_two_patients(database: Engine, bundle: Bundle) -> None:
    here = screened(database, bundle, b"/a", content=b"a")
    there = screened(database, bundle, b"/b", content=b"b")
    with reading(database) as connection:
        rows = connection.execute(
            select(Patient.root, Patient.external_id).join(Case, Case.patient_id == Patient.id).order_by(Case.id)
        ).all()
    assert [tuple(row) for row in rows] == [(b"/a", "001"), (b"/b", "001")]
    again = plan_submit(database, request(bundle, found("001", *FILES, "3.jpg"), root=b"/a"))
    assert (again.last_run, again.reused, again.pending) == (here, 3, 1)
    assert in_conflict(database, here, there) == [False, False]


def test_reviews_and_exports_of_one_archive_leave_the_other_alone(database: Engine, bundle: Bundle) -> None:
    here = screened(database, bundle, b"/a", content=b"a")
    there = screened(database, bundle, b"/b", content=b"b")
    cases = [case_of(database, run) for run in (here, there)]
    for case, opinion in zip(cases, (Opinion(Verdict.BENIGN), Opinion(Verdict.ALL, "Pro")), strict=True):
        act(database, case, ReviewAction.OVERRIDE, ANNA, opinion=opinion, comment="seen")
    labelled, left_out = labelled_cases(database)
    assert [(one.patient, one.label) for one in labelled] == [("/a/001", "Benign"), ("/b/001", "Pro")]
    assert not left_out, "neither replaces the other"
    assert [one.patient for one in labelled_cases(database, here)[0]] == ["001"]


def test_site_and_archive_stand_in_every_row_for_others(database: Engine, bundle: Bundle) -> None:
    run = screened(database, bundle, b"/a", site="north")
    screened(database, bundle, b"/b", content=b"b")
    assert [(row.site, row.archive) for row in waiting_rows(database, limit=9)] == [("north", "/a"), (None, "/b")]
    assert [(row.site, row.archive) for row in review_list(database)[0]] == [("north", "/a"), (None, "/b")]
    assert (
        case_details(database, case_of(database, run), captures=1).site == read_run(database, run).run.site == "north"
    )


def test_a_copied_or_moved_archive_raises_no_alarm(database: Engine, bundle: Bundle) -> None:
    runs = [screened(database, bundle, root) for root in (b"/a", b"/moved")]
    assert in_conflict(database, *runs) == [False, False]


def test_a_file_of_an_archive_within_another_is_no_mix_up(database: Engine, bundle: Bundle) -> None:
    """`/a` has dates and `/a/2026-11-26` the patients of one of them; the digests of `screened` are those of paths."""
    whole = submit(database, request(bundle, found("2026-11-26/001", *FILES), root=b"/a", patient_depth=2))
    lease = claimed(database, whole.chunk_ids[0])
    ended = outcome(lease)
    ended.screened[:] = [
        replace(one, sha256=digest(path.path.removeprefix(b"2026-11-26/")))
        for one, path in zip(ended.screened, lease.captures, strict=True)
    ]
    finish_chunk(database, lease, ended)
    day = screened(database, bundle, b"/a/2026-11-26")
    assert in_conflict(database, whole.run_id or 0, day) == [False, False]


@pytest.mark.parametrize(
    ("patient", "names"), [("001", ("0.jpg", "9.jpg")), ("001", (*FILES, "3.jpg")), ("002", FILES)]
)
def test_a_capture_of_a_patient_of_another_archive_is_a_mix_up_also_under_the_same_name(
    database: Engine, bundle: Bundle, patient: str, names: tuple[str, ...]
) -> None:
    here = screened(database, bundle, b"/a")
    run = submit(database, request(bundle, found(patient, *names), root=b"/b"))
    lease = claimed(database, run.chunk_ids[0])
    ended = outcome(lease)
    ended.screened[0] = replace(ended.screened[0], sha256=digest(b"001/0.jpg"))
    ended.screened[1:] = [replace(one, sha256=digest(b"b%d" % one.capture_id)) for one in ended.screened[1:]]
    finish_chunk(database, lease, ended)
    there = run.run_id or 0
    assert in_conflict(database, here, there) == [True, True]
    for one in (here, there):
        assert all(finding.holds for finding in fsck(database, one, grace_s=0))


def test_two_archives_are_compared_whatever_their_bundles(database: Engine, bundle: Bundle) -> None:
    other_bundle = replace(bundle, digest="f" * 64)
    here = screened(database, bundle, b"/a")
    run = submit(database, request(other_bundle, found("002", "0.jpg"), root=b"/b"))
    lease = claimed(database, run.chunk_ids[0])
    ended = outcome(lease)
    ended.screened[0] = replace(ended.screened[0], sha256=digest(b"001/1.jpg"))
    finish_chunk(database, lease, ended)
    assert in_conflict(database, here, run.run_id or 0) == [True, True]
