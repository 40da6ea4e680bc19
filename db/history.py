"""What earlier runs of an archive hold, for the submit that follows them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, case, func, select
from sqlalchemy.orm import aliased

from contract.archive import FoundCapture
from contract.errors import UsageError
from contract.modified import same_time
from contract.states import PASSING, CaptureState, CaseState
from db.engine import AnyRow, slices
from db.models import Capture, Case, Patient, Run

REUSABLE = (CaptureState.SCREENED, CaptureState.REJECTED)


@dataclass
class History:
    """One patient's captures in earlier runs with the same bundle, by path.

    `usable` has the latest row of each that says something about the file itself, not about the moment (PASSING);
    `last` has all rows of the patient's latest case, and is None if there is no case. `read` says of each capture that
    was read again whether it holds the bytes that its row is about (db/rereading.py).
    """

    usable: dict[bytes, Any] = field(default_factory=dict)
    last: dict[bytes, Any] | None = None
    last_case: int | None = None
    read: dict[bytes, bool] = field(default_factory=dict)

    def add(self, row: Any) -> None:
        """Add a row of `history_of`; rows come in the order of their cases."""
        if row.case_id != self.last_case:
            self.last, self.last_case = {}, row.case_id
        if row.path is None or self.last is None:  # a case without captures
            return
        self.last[row.path] = row
        if row.reject_code not in PASSING:
            self.usable[row.path] = row

    def reusable(self, capture: FoundCapture) -> int | None:
        """The row that can be copied for this capture; None if it has to be screened."""
        row = self.usable.get(capture.path)
        return row.id if row is not None and self._is_known(row, capture) and row.state in REUSABLE else None

    def is_up_to_date(self, captures: Sequence[FoundCapture]) -> bool:
        """Whether the latest case has exactly these captures, and none of them should be tried again."""
        if self.last is None or len(self.last) != len(captures):
            return False
        rows = [(self.last.get(capture.path), capture) for capture in captures]
        return all(row is not None and row.reject_code not in PASSING and self._is_known(row, one) for row, one in rows)

    def _is_known(self, row: Any, capture: FoundCapture) -> bool:
        """Whether the row is of this file as it is now. A file in doubt that nobody has read is another one."""
        return is_same(row, capture) and self.read.get(capture.path, not is_in_doubt(row, capture))


def is_in_doubt(row: Any, capture: FoundCapture) -> bool:
    """Whether the file's inode or change time is another one than in the row, where both are known. A row that nothing
    has been read for yet cannot be wrong.
    """
    pairs = (row.inode, capture.inode), (row.changed_ns, capture.changed_ns)
    moved = any(None not in pair and pair[0] != pair[1] for pair in pairs)
    return moved and row.state != CaptureState.PENDING


def is_same(row: Any, capture: FoundCapture) -> bool:
    """Whether size and modification time are those of the row."""
    return row.size_bytes == capture.size_bytes and same_time(row.modified_ns, capture.modified_ns)


def history_of(
    connection: Connection, root: bytes, bundle_digest: str, pseudonym_key: str | None, patients: Sequence[str]
) -> dict[str, History]:
    """What earlier runs of this archive with this bundle hold of these patients."""
    histories: dict[str, History] = {}
    for names in slices(patients, 500):
        rows = connection.execute(
            select(
                Patient.external_id, Case.id.label("case_id"), Capture.path, Capture.size_bytes, Capture.modified_ns,
                Capture.id, Capture.state, Capture.reject_code, Capture.inode, Capture.changed_ns, Capture.sha256,
            )
            .select_from(Case)
            .join(Patient, Patient.id == Case.patient_id)
            .join(Run, Run.id == Case.run_id)
            .outerjoin(Capture, Capture.case_id == Case.id)
            .where(Patient.root == root, Patient.external_id.in_(names), *_in_force(root, pseudonym_key))
            .where(Run.bundle_digest == bundle_digest)
            .order_by(Case.id)
        )  # fmt: skip
        for row in rows:
            histories.setdefault(row.external_id, History()).add(row)
    return histories


def last_run(connection: Connection, root: bytes, bundle_digest: str, pseudonym_key: str | None) -> int | None:
    """The last run of this archive with this bundle."""
    return connection.execute(
        select(func.max(Run.id)).where(*_in_force(root, pseudonym_key), Run.bundle_digest == bundle_digest)
    ).scalar()


class LatestCase(NamedTuple):
    """How many captures a patient's latest case has.

    `in_force` is the case that a case without captures withdraws: the latest with a result, or the latest of all if
    none has one; None if that has no captures either.
    """

    captures: int
    in_force: int | None


def latest_cases(connection: Connection, root: bytes, pseudonym_key: str | None) -> dict[str, LatestCase]:
    """The latest case of each patient of this archive, whatever its bundle."""
    finished = case((Case.state == CaseState.AGGREGATED, Case.id))
    latest = (
        select(func.max(Case.id).label("case_id"), func.max(finished).label("finished_id"))
        .join(Run, Run.id == Case.run_id)
        .where(*_in_force(root, pseudonym_key))
        .group_by(Case.patient_id)
        .subquery()
    )
    with_result = aliased(Case)
    rows = connection.execute(
        select(
            Patient.external_id, Case.id, Case.submitted, with_result.id.label("finished_id"),
            with_result.submitted.label("finished_captures"),
        )
        .join(latest, latest.c.case_id == Case.id)
        .outerjoin(with_result, with_result.id == latest.c.finished_id)
        .join(Patient, Patient.id == Case.patient_id)
    )  # fmt: skip
    return {row.external_id: LatestCase(row.submitted, _in_force_case(row)) for row in rows}


def _in_force_case(row: AnyRow) -> int | None:
    if row.finished_captures:
        return int(row.finished_id)
    return int(row.id) if row.submitted else None


def refuse_other_depth(connection: Connection, root: bytes, patient_depth: int) -> None:
    """Raise UsageError if a run of this archive that was not cancelled took other folders for its patients.

    One capture would belong to two patients, and a result would be replaced by nobody's.
    """
    other = connection.execute(
        select(Run.id, Run.patient_depth)
        .where(Run.root == root, Run.cancelled_at.is_(None), Run.patient_depth != patient_depth)
        .order_by(Run.id.desc())
        .limit(1)
    ).first()
    if other is not None:
        raise UsageError(
            f"run {other.id} of this archive has the patients {_levels(other.patient_depth)} below it, this submit "
            f"{_levels(patient_depth)}: they would be other patients with the same captures. Submit with "
            f"--patient-depth {other.patient_depth}, or first `screen cancel` every run that had the wrong depth"
        )


def _levels(depth: int) -> str:
    return f"{depth} level{'s' if depth > 1 else ''}"


def _in_force(root: bytes, pseudonym_key: str | None) -> tuple[Any, ...]:
    """Runs of this archive, with these names for its patients, that were not cancelled."""
    return (
        Run.root == root, Run.cancelled_at.is_(None), Run.pseudonym_key.is_not_distinct_from(pseudonym_key),
    )  # fmt: skip
