"""Folders of one archive whose names look the same: one patient in two halves, or two people in one.

Their cases say so, like those of patients who share a capture (db/mix_ups.py). What decides it was fixed by submits:
the names, and which patients have captures now. So a worker finds it when it writes a result, and a submit writes the
results again that were there before the second folder came, or after it went.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select
from sqlalchemy.orm import aliased

from contract.case_rule import LOOK_ALIKE, MIXED_UP
from contract.settled import NAMES, Settlement
from contract.states import CaseState
from db.engine import slices
from db.models import Case, Patient, Run, SettledIdentity


@dataclass(frozen=True)
class LookAlike:
    """A case, and a patient of the same archive whose folder's name looks the same; `settled` by a reviewer or not."""

    case_id: int
    patient_id: int
    other_patient_id: int
    other_patient: str
    other_case_id: int
    settled: bool


def look_alikes(connection: Connection, case_ids: Sequence[int]) -> list[LookAlike]:
    """Of these cases, each with each patient whose name looks the same and whose last case has captures."""
    found: list[LookAlike] = []
    for ids in slices(case_ids, 500):
        if not (perhaps := connection.execute(_PERHAPS, {"ids": ids}).scalars().all()):
            continue  # nearly always: the long statement is not worth a chunk's time
        found += [
            LookAlike(
                row.id, row.patient_id, row.other_id, row.external_id, row.other_case_id, row.settled_id is not None
            )
            for row in connection.execute(_PAIRS, {"ids": perhaps})
        ]
    return found


def settled_names(connection: Connection, pairs: Collection[LookAlike]) -> Settlement | None:
    """What reviewers have settled about the names in these pairs of one case; None if nothing."""
    settled = {pair.other_patient_id: pair.patient_id for pair in pairs if pair.settled}
    if not settled:
        return None
    rows = connection.execute(
        select(SettledIdentity.reviewer, SettledIdentity.created_at)
        .where(SettledIdentity.patient_id.in_(settled.values()), SettledIdentity.sha256 == NAMES)
        .where(SettledIdentity.other_patient_id.in_(settled))
        .order_by(SettledIdentity.id)
    ).all()
    return Settlement(0, list(dict.fromkeys(row.reviewer for row in rows)), rows[-1].created_at)


def changed_look_alikes(connection: Connection, root: bytes) -> list[int]:
    """The last finished cases of an archive's patients whose results do not say what is true of the names now."""
    alike = (
        select(Patient.look_alike)
        .where(Patient.root == root, Patient.look_alike.is_not(None))
        .group_by(Patient.look_alike)
        .having(func.count() > 1)
    )
    keys = connection.execute(alike).scalars().all()
    of_root = (
        select(Case.id, Case.reasons)
        .join(Patient, Patient.id == Case.patient_id)
        .where(Patient.root == root, Case.state == CaseState.AGGREGATED, Case.submitted > 0, ~_later(Case).exists())
    )
    # By the index of priorities: a night must not look through all earlier cases.
    urgent = select(Case.id).where(Case.state == CaseState.AGGREGATED, Case.priority >= MIXED_UP)
    flagged = connection.execute(urgent.where(Case.identity_conflict.is_(True))).scalars().all()
    rows = {
        row.id: row for batch in slices(flagged, 500) for row in connection.execute(of_root.where(Case.id.in_(batch)))
    }
    for batch in slices(keys, 500):
        rows |= {row.id: row for row in connection.execute(of_root.where(Patient.look_alike.in_(batch)))}
    open_pairs = {pair.case_id for pair in look_alikes(connection, sorted(rows)) if not pair.settled}
    says = {row.id for row in rows.values() if any(one["code"] == LOOK_ALIKE.code for one in row.reasons or ())}
    return sorted(open_pairs ^ says)


def unmarked_look_alikes(connection: Connection, run_id: int) -> list[int]:
    """Those of a run's finished cases, the last of their patients, whose results are wrong about the names."""
    root = connection.execute(select(Run.root).where(Run.id == run_id)).scalar_one()
    wrong = changed_look_alikes(connection, bytes(root))
    of_run: set[int] = set()
    for ids in slices(wrong, 500):
        of_run.update(connection.execute(select(Case.id).where(Case.id.in_(ids), Case.run_id == run_id)).scalars())
    return sorted(of_run)


def _pairs() -> Select[*tuple[Any, ...]]:
    mine, other, other_case, run = aliased(Patient), aliased(Patient), aliased(Case), aliased(Run)
    return (
        select(
            Case.id, Case.patient_id, other.id.label("other_id"), other.external_id,
            other_case.id.label("other_case_id"), SettledIdentity.id.label("settled_id"),
        )
        .select_from(Case)
        .join(mine, mine.id == Case.patient_id)
        .join(other, (other.root == mine.root) & (other.look_alike == mine.look_alike) & (other.id != mine.id))
        .join(other_case, (other_case.patient_id == other.id) & (other_case.submitted > 0))
        .join(run, (run.id == other_case.run_id) & run.cancelled_at.is_(None))
        .outerjoin(
            SettledIdentity,
            (SettledIdentity.patient_id == mine.id) & (SettledIdentity.other_patient_id == other.id)
            & (SettledIdentity.sha256 == NAMES),
        )
        .where(Case.id.in_(bindparam("ids", expanding=True)), ~_later(other_case).exists())
        .order_by(Case.id, other_case.id)
    )  # fmt: skip


def _later(case: type[Case]) -> Select[int]:
    """Later cases of the case's patient in runs that are not cancelled."""
    later, run = aliased(Case), aliased(Run)
    return (
        select(later.id)
        .join(run, run.id == later.run_id)
        .where(later.patient_id == case.patient_id, later.id > case.id, run.cancelled_at.is_(None))
    )


def _perhaps() -> Select[int]:
    """Those of the cases `ids` whose folder's name looks like another's, whatever became of that."""
    mine, other = aliased(Patient), aliased(Patient)
    alike = (other.root == mine.root) & (other.look_alike == mine.look_alike) & (other.id != mine.id)
    return (
        select(Case.id)
        .join(mine, mine.id == Case.patient_id)
        .where(Case.id.in_(bindparam("ids", expanding=True)), select(other.id).where(alike).exists())
    )


_PERHAPS, _PAIRS = _perhaps(), _pairs()
"""Built once: they run for every chunk, and building them takes longer than running them."""
