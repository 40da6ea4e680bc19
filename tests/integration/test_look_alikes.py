"""Two folders of an archive whose names look the same: one patient in two halves, or two people in one."""

import unicodedata
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from contract.archive import FoundCapture
from contract.bundle import Bundle
from contract.case_rule import LOOK_ALIKE, MIXED_UP
from contract.names import display_name, look_alike
from contract.pseudonyms import PseudonymKey
from contract.settled import IDENTITY_SETTLED
from contract.states import NoCaptures, ReviewAction
from db import control
from db.engine import reading, writing
from db.fsck import fsck
from db.models import Case, Event, Patient
from db.results import finish_chunk
from db.review import Reviewer, act
from db.review_queries import case_details, review_list
from db.run_report import read_run
from db.settling import settle_identity
from db.submission import submit
from producer.formats import load_formats
from tests.support.runs import claimed, found, outcome, request, without

ANNA = Reviewer("anna", "1.2.3")
CYRILLIC_A = "\N{CYRILLIC SMALL LETTER A}"
PAIRS = [
    ("M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller", "Mu\N{COMBINING DIAERESIS}ller"),
    ("Meier_Anna", "meier_anna"),
    ("Meier", "Meier "),
    ("Anna", "Ann" + CYRILLIC_A),
    ("P1", "P\N{FULLWIDTH DIGIT ONE}"),
    ("P10", "P1O"),
    ("Anna", "An\N{ZERO WIDTH SPACE}na"),
]


def screened(database: Engine, bundle: Bundle, *patients: str, p_all: float = 0.02, **more: Any) -> int:
    """Submit two captures of each patient, and screen all that are new, as benign."""
    captures = [one for patient in patients for one in found(patient, "0.jpg", "1.jpg")]
    run = submit(database, request(bundle, captures, **more))
    for chunk_id in run.chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, p_all))
    assert run.run_id is not None
    return run.run_id


def marked(database: Engine) -> dict[int, tuple[bool | None, bool]]:
    """Of each case, its flag and whether its first reason is the mark."""
    with reading(database) as connection:
        rows = connection.execute(select(Case.id, Case.identity_conflict, Case.reasons).order_by(Case.id)).all()
    return {row.id: (row.identity_conflict, bool(row.reasons) and row.reasons[0]["code"] == LOOK_ALIKE.code)
            for row in rows}  # fmt: skip


def broken(database: Engine, *runs: int) -> list[str]:
    return [one.invariant for run in runs for one in fsck(database, run, grace_s=0) if not one.holds]


MARKED, UNMARKED = (True, True), (False, False)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_both_cases_say_it_first_and_come_before_all_others(
    database: Engine, bundle: Bundle, one: str, other: str
) -> None:
    run = screened(database, bundle, one, other, "Z9")
    cases = {case.patient: case for case in read_run(database, run).cases}
    flags = marked(database)
    assert [case.verdict for case in cases.values()] == ["benign"] * 3
    assert {name: flags[case.case_id] for name, case in cases.items()} == {
        display_name(one.encode()): MARKED, display_name(other.encode()): MARKED, "Z9": UNMARKED
    }  # fmt: skip
    urgent = [case.priority or 0 for name, case in cases.items() if name != "Z9"]
    assert min(urgent) >= MIXED_UP > (cases["Z9"].priority or 0)
    assert {row.patient for row in review_list(database)[0][:2]} == set(cases) - {"Z9"}
    assert broken(database, run) == []


def test_the_folder_that_comes_later_marks_the_case_of_before(database: Engine, bundle: Bundle) -> None:
    first = screened(database, bundle, "Meier")
    act(database, 1, ReviewAction.CONFIRM, ANNA)
    assert marked(database) == {1: UNMARKED}
    second = screened(database, bundle, "Meier", "meier")
    assert marked(database) == {1: MARKED, 2: MARKED}
    assert {row.case_id for row in review_list(database)[0]} == {1, 2}, "who signed the first had not seen the second"
    assert broken(database, first, second) == []


def test_folders_put_into_one_are_marked_no_longer(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "Meier", "meier")
    run = submit(
        database,
        request(bundle, found("Meier", "0.jpg", "1.jpg"), absent=[without("meier", NoCaptures.GONE)]),
    )
    assert run.plan.cases == 1
    assert marked(database)[1] == UNMARKED
    assert broken(database, 1, 2) == []


def test_a_cancelled_run_marks_nothing(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "Meier")
    second = screened(database, bundle, "Meier", "meier")
    control.cancel(database, second, actor="anna")
    assert marked(database)[1] == UNMARKED
    control.resume(database, second, actor="anna")
    assert marked(database) == {1: MARKED, 2: MARKED}


def test_the_same_name_in_another_archive_is_another_patient(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "Meier")
    screened(database, bundle, "meier", root=b"/b")
    assert marked(database) == {1: UNMARKED, 2: UNMARKED}


def test_what_looks_different_is_not_marked(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "007", "7", "P 11", "P1 1", "Mai", "Mal", "Muller", "Mueller")
    assert set(marked(database).values()) == {UNMARKED}


def test_a_reviewer_settles_it_for_one_case_and_for_later_ones(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "Meier", "meier")
    settled = settle_identity(database, 1, ANNA, comment="two people, born 1950 and 1981")
    assert len(settled.against) == 1
    assert [flag for flag, _ in marked(database).values()] == [False, True]
    second = screened(database, bundle, "Meier", "meier", everything=True)
    assert [flag for flag, _ in marked(database).values()][-2:] in ([False, True], [True, False])
    reasons = {case.patient: [one.code for one in case.reasons] for case in read_run(database, second).cases}
    assert sorted(IDENTITY_SETTLED in codes for codes in reasons.values()) == [False, True]
    assert broken(database, 1, second) == []


def test_every_page_and_export_shows_it(database: Engine, bundle: Bundle) -> None:
    run = screened(database, bundle, "Meier", "meier")
    details = case_details(database, 1, captures=1)
    assert [pair.other_case_id for pair in details.look_alikes] == [2]
    report = read_run(database, run)
    formats = load_formats()
    for name in ("table", "json", "csv", "csv-excel", "html", "fhir"):
        shown = " ".join(formats[name].render(report, None).replace("│", " ").split())
        assert shown.count("looks the same") >= 2, name


def test_pseudonyms_hide_the_names_and_not_that_they_look_the_same(database: Engine, bundle: Bundle) -> None:
    key = PseudonymKey(b"k" * 32)

    def hidden(*patients: str) -> list[FoundCapture]:
        return [
            FoundCapture(key.path(one.path), key.pseudonym(one.patient), 100, 1, look_alike=key.look_alike(one.patient))
            for patient in patients
            for one in found(patient, "0.jpg")
        ]

    run = submit(database, request(bundle, hidden("Meier", "meier", "Schulz"), pseudonym_key=key.fingerprint))
    for chunk_id in run.chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, 0.02))
    assert sorted(marked(database).values()) == [UNMARKED, MARKED, MARKED]
    with reading(database) as connection:
        rows = connection.execute(select(Patient.external_id, Patient.look_alike)).all()
    assert not any("meier" in f"{row.external_id}{row.look_alike}".lower() for row in rows)


def test_a_patient_of_an_earlier_release_gets_the_key_with_the_next_submit(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "Meier")
    with writing(database) as connection:
        connection.execute(update(Patient).values(look_alike=None))
    screened(database, bundle, "Meier", everything=True)
    with reading(database) as connection:
        assert connection.execute(select(Patient.look_alike)).scalars().all() == ["meier"]


def test_the_change_is_in_the_audit(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "Meier")
    screened(database, bundle, "Meier", "meier")
    with reading(database) as connection:
        kinds = connection.execute(select(Event.kind, Event.case_id).where(Event.case_id == 1)).all()
    assert ("identity_conflict", 1) in [tuple(row) for row in kinds]


def test_the_key_is_the_same_for_both_forms_of_every_letter() -> None:
    for code in range(0xA0, 0x250):
        letter = chr(code)
        assert look_alike(letter.encode()) == look_alike(unicodedata.normalize("NFD", letter).encode())
