"""Patients without captures: found at submit, written with the run, read for its reports.

A patient who had captures in an earlier run gets a case without any, so that the earlier result does not stand as if it
were today's. A patient whose folder could not be read keeps it: nobody knows whether the captures are gone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.orm import aliased

from contract.archive import PatientWithoutCaptures as FoundWithoutCaptures
from contract.case_rule import Emptied
from contract.names import display_name
from contract.states import NoCaptures, ReviewState, Verdict
from contract.words import result_words
from db.models import Case, Patient, PatientWithoutCaptures
from db.opinions import CASE_REVIEW

_GONE = "no folder of it is among the archive's patients any more"
HAS_CASE = (Case.run_id == PatientWithoutCaptures.run_id) & (Case.patient_id == PatientWithoutCaptures.patient_id)
"""How a patient without captures is joined to its case in that run, if it has one."""


@dataclass(frozen=True)
class Absent:
    """A patient without captures at a submit. `earlier_case` is the patient's latest case, if that had captures."""

    patient: str
    code: NoCaptures
    reason: str
    earlier_case: int | None

    @property
    def withdraws(self) -> bool:
        """Whether the earlier result must not stand: the captures that it rests on are gone."""
        return self.earlier_case is not None and self.code is not NoCaptures.NOT_READABLE


def absent_patients(
    found: Sequence[FoundWithoutCaptures],
    with_captures: Collection[str],
    earlier_cases: Mapping[str, int],
    *,
    complete: bool,
) -> list[Absent]:
    """The patients that the walk found without captures, and, if it was `complete`, those of `earlier_cases` (patient
    -> case) that it did not find at all.
    """
    absent = [
        Absent(name, patient.code, patient.reason, earlier_cases.get(name))
        for patient in found
        for name in (display_name(patient.patient),)
    ]
    if complete:
        known = {patient.patient for patient in absent}
        gone = sorted(name for name in earlier_cases if name not in with_captures and name not in known)
        absent += [Absent(name, NoCaptures.GONE, _GONE, earlier_cases[name]) for name in gone]
    return absent


def write_absent(connection: Connection, run_id: int, absent: Sequence[Absent], patient_ids: Mapping[str, int]) -> None:
    """Write the rows of a run's patients without captures."""
    if not absent:
        return
    connection.execute(
        insert(PatientWithoutCaptures),
        [
            {
                "run_id": run_id, "patient_id": patient_ids[patient.patient], "code": patient.code,
                "reason": patient.reason, "earlier_case_id": patient.earlier_case,
            }
            for patient in absent
        ],
    )  # fmt: skip


def codes_of_run(connection: Connection, run_id: int | None) -> dict[str, str]:
    """The patients without captures of a run, with the codes that say why."""
    rows = connection.execute(
        select(Patient.external_id, PatientWithoutCaptures.code)
        .join(Patient, Patient.id == PatientWithoutCaptures.patient_id)
        .where(PatientWithoutCaptures.run_id == run_id)
    )
    return dict(rows.all())


@dataclass(frozen=True)
class AbsentRow:
    """A patient without captures in a run, as a report names it. `case_id` is its case in this run, which withdraws
    the result of `earlier_case_id`; without a case that result, if there is one, stays.
    """

    patient: str
    code: NoCaptures
    reason: str
    case_id: int | None
    earlier_run_id: int | None
    earlier_case_id: int | None
    earlier_verdict: Verdict | None
    earlier_subtype: str | None
    earlier_score: float | None
    earlier_signed: bool

    @property
    def sentence(self) -> str:
        """Why there are no captures, and what that means for an earlier result."""
        if self.earlier_run_id is None:
            return self.reason
        words = result_words(self.earlier_verdict, self.earlier_subtype, signed=self.earlier_signed)
        fate = "stays as it is" if self.case_id is None else f"is withdrawn by case {self.case_id}"
        return f"{self.reason}; its result in run {self.earlier_run_id} ({words}) {fate}"


def absent_of_run(connection: Connection, run_id: int) -> tuple[AbsentRow, ...]:
    """The patients without captures of a run, by name."""
    rows = connection.execute(_rows().where(PatientWithoutCaptures.run_id == run_id).order_by(Patient.external_id))
    return tuple(_absent_row(row) for row in rows)


def emptied(connection: Connection, case_id: int) -> Emptied:
    """Why this case has no captures, and the result that it withdraws."""
    absent = connection.execute(
        select(PatientWithoutCaptures.reason, PatientWithoutCaptures.earlier_case_id)
        .join(Case, HAS_CASE)
        .where(Case.id == case_id)
    ).one()
    earlier = connection.execute(
        select(Case.run_id, Case.verdict, Case.subtype, Case.score).where(Case.id == absent.earlier_case_id)
    ).first()
    if earlier is None:
        return Emptied(absent.reason)
    signed = connection.execute(  # by the case's number, because the view goes through all reviews without it
        select(CASE_REVIEW.c.final_verdict, CASE_REVIEW.c.final_subtype).where(
            CASE_REVIEW.c.case_id == absent.earlier_case_id, CASE_REVIEW.c.state == ReviewState.CLOSED
        )
    ).first()
    verdict, subtype = (earlier.verdict, earlier.subtype) if signed is None else signed
    return Emptied(
        absent.reason, earlier.run_id, verdict and Verdict(verdict), subtype, earlier.score, signed is not None
    )


def _rows() -> Any:
    earlier = aliased(Case)
    return (
        select(
            Patient.external_id, PatientWithoutCaptures.code, PatientWithoutCaptures.reason, Case.id.label("case_id"),
            earlier.run_id, earlier.id.label("earlier_id"), earlier.verdict, earlier.subtype, earlier.score,
            CASE_REVIEW.c.state, CASE_REVIEW.c.final_verdict, CASE_REVIEW.c.final_subtype,
        )
        .select_from(PatientWithoutCaptures)
        .join(Patient, Patient.id == PatientWithoutCaptures.patient_id)
        .outerjoin(Case, HAS_CASE)
        .outerjoin(earlier, earlier.id == PatientWithoutCaptures.earlier_case_id)
        .outerjoin(CASE_REVIEW, CASE_REVIEW.c.case_id == earlier.id)
    )  # fmt: skip


def _absent_row(row: Any) -> AbsentRow:
    signed = row.state == ReviewState.CLOSED
    verdict, subtype = (row.final_verdict, row.final_subtype) if signed else (row.verdict, row.subtype)
    return AbsentRow(
        row.external_id, NoCaptures(row.code), row.reason, row.case_id, row.run_id, row.earlier_id,
        verdict and Verdict(verdict), subtype, row.score, signed,
    )  # fmt: skip
