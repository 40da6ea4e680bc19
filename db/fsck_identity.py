"""Mix-ups of patients, searched for by the digests alone: what `screen fsck` compares the results with.

The view identity_conflicts decides what a result says, so a mistake in it would hide itself. This is the same rule
written a second time, over the rows: keep the two apart.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from sqlalchemy import Connection, func, select
from sqlalchemy.orm import aliased

from contract.case_rule import IDENTITY_CONFLICT
from contract.states import CaptureState, CaseState, ReviewAction
from db.engine import slices
from db.models import Capture, Case, Patient, Review, Run, SettledIdentity


class _Sighting(NamedTuple):
    """A digest in a case, and the path of one capture that has it."""

    case_id: int
    path: bytes


@dataclass(frozen=True)
class _Known:
    """What decides whether two cases may hold the same capture. `names` are those of one archive, or of one key."""

    id: int
    patient_id: int
    patient: str
    submitted: int
    run_id: int
    root: bytes
    bundle_digest: str
    patient_depth: int
    names: str
    replaces: bool
    says_no_conflict: bool

    def replaces_for(self, earlier: "_Known", root: bytes) -> bool:
        """Whether this case has replaced that earlier one of its patient, seen from a case of the archive `root`."""
        if not self.replaces or self.id <= earlier.id or self.names != earlier.names:
            return False
        return self.bundle_digest == earlier.bundle_digest or not self.submitted or root != earlier.root


def silent_mix_ups(connection: Connection, run_id: int) -> list[int]:
    """Cases of a run that say that they are in no conflict, and share a capture with another patient's case.

    Both must be the last word on their patients: no later case with a result, in a run that is not cancelled, has
    replaced them. That later case must have had the same bundle, or no captures, or it is looked at from another
    archive. What a reviewer has settled for the patient of the case is no conflict for it.
    """
    sightings = _shared(connection, run_id)
    cases = _cases(connection, {one.case_id for seen in sightings.values() for one in seen})
    by_patient: dict[int, list[_Known]] = defaultdict(list)
    for case in cases.values():
        by_patient[case.patient_id].append(case)

    settled = _settled(connection, run_id)

    @cache
    def is_replaced(case: _Known, root: bytes) -> bool:
        return any(later.replaces_for(case, root) for later in by_patient[case.patient_id])

    @cache
    def files(case_id: int) -> frozenset[tuple[bytes, int]]:
        rows = connection.execute(select(Capture.path, Capture.size_bytes).where(Capture.case_id == case_id))
        return frozenset((bytes(row.path), row.size_bytes) for row in rows)

    def is_mix_up(mine: _Known, path: bytes, other: _Known, other_path: bytes) -> bool:
        if mine.patient_id == other.patient_id or mine.names != other.names or is_replaced(other, mine.root):
            return False
        if mine.root == other.root:
            return (mine.bundle_digest, mine.patient_depth) == (other.bundle_digest, other.patient_depth)
        if mine.root + b"/" + path == other.root + b"/" + other_path:
            return False
        is_copy = mine.patient == other.patient and mine.submitted == other.submitted
        return not (is_copy and files(mine.id) <= files(other.id))

    silent: set[int] = set()
    for digest, seen in sightings.items():
        for one in seen:
            mine = cases[one.case_id]
            if mine.run_id != run_id or not mine.says_no_conflict or mine.id in silent or is_replaced(mine, mine.root):
                continue
            if any(
                is_mix_up(mine, one.path, cases[other.case_id], other.path)
                for other in seen
                if (mine.patient_id, cases[other.case_id].patient_id, digest) not in settled
            ):
                silent.add(mine.id)
    return sorted(silent)


def _settled(connection: Connection, run_id: int) -> set[tuple[int, int, str]]:
    """Patient, other patient and digest of all that was settled for the patients of the run."""
    of_run = select(Case.patient_id).where(Case.run_id == run_id)
    rows = connection.execute(
        select(SettledIdentity.patient_id, SettledIdentity.other_patient_id, SettledIdentity.sha256).where(
            SettledIdentity.patient_id.in_(of_run)
        )
    )
    return {(row.patient_id, row.other_patient_id, row.sha256) for row in rows}


def settled_by_nobody(connection: Connection, run_id: int) -> list[int]:
    """Cases of a run for which something is settled that no action of a reviewer on them says."""
    action = select(Review.id).where(
        Review.id == SettledIdentity.review_id,
        Review.case_id == SettledIdentity.case_id,
        Review.action == ReviewAction.SETTLE_IDENTITY,
    )
    of_case = select(Case.id).join(SettledIdentity, SettledIdentity.case_id == Case.id)
    wrong = of_case.where(Case.run_id == run_id, ~action.exists()).distinct()
    return sorted(connection.execute(wrong).scalars())


def _shared(connection: Connection, run_id: int) -> dict[str, list[_Sighting]]:
    """By digest, for digests of the run that screened captures of several patients have: who has them, and where."""
    of_run = aliased(Capture)
    digests = connection.execute(
        select(Capture.sha256)
        .join(Case, Case.id == Capture.case_id)
        .where(Capture.state == CaptureState.SCREENED)
        .where(Capture.sha256.in_(select(of_run.sha256).where(of_run.run_id == run_id)))
        .group_by(Capture.sha256)
        .having(func.min(Case.patient_id) != func.max(Case.patient_id))
    ).scalars()
    shared: dict[str, list[_Sighting]] = defaultdict(list)
    for batch in slices([digest for digest in digests.all() if digest], 500):
        rows = connection.execute(
            select(Capture.sha256, Capture.case_id, Capture.path)
            .where(Capture.sha256.in_(batch), Capture.state == CaptureState.SCREENED)
            .order_by(Capture.id)
        )
        for digest, case_id, path in rows:
            shared[str(digest)].append(_Sighting(case_id, bytes(path)))
    return shared


def _cases(connection: Connection, case_ids: set[int]) -> dict[int, _Known]:
    """These cases, and all others of their patients."""
    with_digest = aliased(Case)
    cases: dict[int, _Known] = {}
    for batch in slices(sorted(case_ids), 500):
        of_patients = select(with_digest.patient_id).where(with_digest.id.in_(batch))
        rows = connection.execute(
            select(
                Case.id, Case.patient_id, Patient.external_id, Case.submitted, Case.run_id, Case.state,
                Case.identity_conflict, Case.reasons, Run.root, Run.bundle_digest, Run.patient_depth, Run.pseudonym_key,
                Run.cancelled_at,
            )
            .join(Patient, Patient.id == Case.patient_id)
            .join(Run, Run.id == Case.run_id)
            .where(Case.patient_id.in_(of_patients))
        )  # fmt: skip
        for row in rows:
            finished = row.state == CaseState.AGGREGATED
            cases[row.id] = _Known(
                row.id, row.patient_id, row.external_id, row.submitted, row.run_id, bytes(row.root), row.bundle_digest,
                row.patient_depth, row.pseudonym_key or "", replaces=finished and row.cancelled_at is None,
                says_no_conflict=row.identity_conflict is False or (
                    row.identity_conflict is True
                    and all(reason["code"] != IDENTITY_CONFLICT.code for reason in row.reasons or ())
                ),
            )  # fmt: skip
    return cases
