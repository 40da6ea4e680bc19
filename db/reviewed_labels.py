"""Labels from review, for training: the captures of closed cases, each with the reviewers' label for its patient."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Engine, select, text

from contract.bundle import Manifest
from contract.names import display_name
from contract.states import CaptureState, ReviewState, Verdict
from db.engine import reading, slices
from db.models import BundleRow, Capture, Case, Run, SettledIdentity
from db.opinions import CASE_REVIEW
from db.runs import require_run


@dataclass(frozen=True)
class LabelledCase:
    """A closed case. `label` is the subtype if the final verdict is ALL, the bundle's benign label if it is benign.

    `patient` is the folder's name, or its path where cases of several archives come together: the same name in two
    archives is two patients. `shares_captures`: captures may lie under other patients too, settled or not.
    """

    id: int
    patient: str
    label: str
    root: bytes
    site: str | None
    pseudonym_key: str | None
    patient_depth: int
    shares_captures: bool


@dataclass(frozen=True)
class ReviewedCapture:
    """`path` is relative to the archive's root. `left_out` says why training should not use it; None if it should."""

    case: LabelledCase
    path: bytes
    left_out: str | None


def labelled_cases(engine: Engine, run_id: int | None = None) -> tuple[list[LabelledCase], Counter[str]]:
    """Closed cases of one run, or of all, that have a label; and the number of cases without one, by reason.

    If a patient has several closed cases, the last one counts. Raises NoSuchRun.
    """
    settled = select(SettledIdentity.id).where(SettledIdentity.patient_id == Case.patient_id).exists()
    statement = (
        select(
            Case.id, Case.patient_id, (Case.identity_conflict.is_(True) | settled).label("shares"),
            CASE_REVIEW.c.patient, CASE_REVIEW.c.state, CASE_REVIEW.c.final_verdict, CASE_REVIEW.c.final_subtype,
            Run.root, Run.site, Run.pseudonym_key, Run.patient_depth, Run.bundle_digest,
        )
        .join(Run, Run.id == Case.run_id)
        .join(CASE_REVIEW, CASE_REVIEW.c.case_id == Case.id)
        .order_by(Case.id)
    )  # fmt: skip
    with reading(engine) as connection:
        if run_id is not None:
            require_run(connection, run_id)
            statement = statement.where(Case.run_id == run_id)
        cases = connection.execute(statement).all()
        manifests = {
            row.digest: Manifest.model_validate(row.manifest)
            for row in connection.execute(select(BundleRow.digest, BundleRow.manifest))
        }
    closed = [case for case in cases if case.state == ReviewState.CLOSED]
    last_of_patient = {case.patient_id: case for case in closed}
    reviewed_again = len(closed) - len(last_of_patient)
    left_out = Counter({"not closed": len(cases) - len(closed), "reviewed again later": reviewed_again})
    labelled = []
    for case in last_of_patient.values():
        benign = manifests[case.bundle_digest].benign_label
        label = {Verdict.ALL: case.final_subtype, Verdict.BENIGN: benign}.get(case.final_verdict)
        if label is None:
            left_out["ALL without a subtype" if case.final_verdict == Verdict.ALL else case.final_verdict] += 1
        else:
            key, shares = case.pseudonym_key, bool(case.shares)
            labelled.append(
                LabelledCase(case.id, case.patient, label, case.root, case.site, key, case.patient_depth, shares)
            )
    if len({case.root for case in labelled}) > 1:
        labelled = [replace(case, patient=f"{display_name(case.root)}/{case.patient}") for case in labelled]
    return labelled, +left_out


def reviewed_captures(engine: Engine, cases: Sequence[LabelledCase]) -> Iterator[ReviewedCapture]:
    """The screened captures of these cases, case by case."""
    with reading(engine) as connection:
        for batch in slices(cases, 500):
            by_id = {case.id: case for case in batch}
            shared = {
                capture_id
                for case in batch
                if case.shares_captures
                for capture_id in connection.execute(
                    text("SELECT capture_id FROM identity_conflicts WHERE case_id = :case"), {"case": case.id}
                ).scalars()
            }
            rows = connection.execute(
                select(Capture.id, Capture.case_id, Capture.path, Capture.excluded)
                .where(Capture.case_id.in_(by_id), Capture.state == CaptureState.SCREENED)
                .order_by(Capture.case_id, Capture.path)
            )
            for row in rows:
                reason = "under another patient too" if row.id in shared else "excluded for its marks"
                left_out = reason if row.excluded or row.id in shared else None
                yield ReviewedCapture(by_id[row.case_id], bytes(row.path), left_out)
