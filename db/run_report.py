"""One run as people and other systems see it, read in one transaction into frozen rows with types.

Counts that are read at different moments do not fit together. So every format of a run (producer/formats/) is a
function of a `RunReport`, and reads nothing else from the database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, Select, func, select
from sqlalchemy.orm import QueryableAttribute

from contract.bundle import Manifest
from contract.bundle_warnings import bundle_warnings, training_sentence
from contract.case_policy import CasePolicy
from contract.case_rule import Reason
from contract.outcomes import Mark, ScreenedFile
from contract.states import (
    UNSCREENED,
    CaptureState,
    CaseState,
    RejectCode,
    ReviewState,
    Verdict,
)
from db.absent import AbsentRow, absent_of_run
from db.bundles import in_training
from db.drift import Drift, drift_of
from db.engine import reading
from db.incarnation import uuid_of
from db.mix_ups import CONFLICTS, IdentityConflict
from db.models import Capture, Case, Patient, Run
from db.opinions import CASE_REVIEW
from db.plausibility import Implausibility, implausibility_of
from db.progress import Progress, RunSummary, progress_of, run_summary
from db.reused import ORIGINAL, of_original
from db.runs import named_run
from db.sign_offs import SignedHistory, SignOff, signed_histories

CONFLICTING_CASES, CONFLICTS_OF_A_CASE = 100, 5
"""How many of each a report names; the view identity_conflicts has all of them."""


@dataclass(frozen=True)
class Review:
    """Where the review of a finished case stands, and what reviewers agree on once it is closed.

    `signed` has every closing so far, also those that were undone since.
    """

    state: ReviewState
    final_verdict: Verdict | None
    final_subtype: str | None
    closed_at: datetime | None
    signed: SignedHistory

    @property
    def closed(self) -> bool:
        return self.state is ReviewState.CLOSED

    @property
    def signed_otherwise(self) -> SignOff | None:
        """The last closing with another result than the present one; for a case that is not closed now, the last."""
        now = (self.final_verdict, self.final_subtype) if self.closed else None
        others = [one for one in self.signed.sign_offs if (one.verdict, one.subtype) != now]
        return others[-1] if others else None


@dataclass(frozen=True)
class CaseRow:
    """A case with its proposal, which an open case does not have; docs/data.md describes the columns.

    `policy` is the case rule that gave its result: the bundle's, or another one that it was recomputed with.
    """

    case_id: int
    patient: str
    state: CaseState
    verdict: Verdict | None
    subtype: str | None
    subtype_margin: float | None
    score: float | None
    score_low: float | None
    score_high: float | None
    priority: float | None
    submitted: int
    screened: int | None
    rejected: int | None
    quarantined: int | None
    excluded: int | None
    novel: int | None
    counting: int | None
    nucleated_cells: int | None
    cells_at_least: bool | None
    reasons: tuple[Reason, ...]
    case_rule: str | None
    identity_conflict: bool | None
    aggregated_at: datetime | None
    superseded_by: int | None
    policy: CasePolicy
    review: Review | None

    @property
    def changed_after_sign_off(self) -> bool:
        """Whether its captures were screened again, or a mix-up was noted or settled, after it was first closed."""
        if self.review is None or not self.review.signed.sign_offs:
            return False
        return self.review.signed.result_version > self.review.signed.sign_offs[0].result_version


@dataclass(frozen=True, kw_only=True)
class ScreenedCapture:
    """A screened capture of a case, and which bytes of the archive it was."""

    capture_id: int
    path: bytes
    path_text: str
    p_all: float
    size_bytes: int
    sha256: str | None

    @property
    def file(self) -> ScreenedFile:
        """The file that this is about."""
        return ScreenedFile(self.path, self.size_bytes, self.sha256)


@dataclass(frozen=True, kw_only=True)
class CaptureEvidence(ScreenedCapture):
    """What the engine said about a capture."""

    label: str
    probability: float
    probabilities: tuple[float, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, kw_only=True)
class CaptureCells(ScreenedCapture):
    """The nucleated cells of a capture (see contract.cells.unpack), and the size of its file in pixels."""

    width: int
    height: int
    cells: bytes


@dataclass(frozen=True)
class CaseEvidence:
    """Captures behind a result, by falling P(ALL): some that count for it, some that do not, and every score.

    `scores` holds P(ALL) of each screened capture, and whether the capture is excluded. `cells` has every capture that
    counts and has nucleated cells; one that an earlier release screened is not among them.
    """

    counting: tuple[CaptureEvidence, ...]
    excluded: tuple[CaptureEvidence, ...]
    scores: tuple[tuple[float, bool], ...]
    cells: tuple[CaptureCells, ...]


@dataclass(frozen=True)
class BadCapture:
    """A rejected or quarantined capture."""

    capture_id: int
    patient: str
    path: str
    state: CaptureState
    reject_code: RejectCode | None
    reason: str | None


@dataclass(frozen=True)
class EvidenceLimits:
    """For how many cases, the most urgent first, evidence is read, and how much for each."""

    cases: int
    counting: int
    excluded: int


@dataclass(frozen=True)
class RunReport:
    """A run at one moment. `warnings` are what the bundle says against itself; `in_training` counts the screened
    captures that it was made with, and is None if it does not list them. `cases` come by urgency, open ones last;
    `evidence` is by case id.

    `database` is the UUID of the database that the run is in.
    """

    run: RunSummary
    database: str
    root: bytes
    pseudonym_key: str | None
    manifest: Manifest
    warnings: tuple[str, ...]
    in_training: int | None
    engines: tuple[str, ...]
    skipped: Mapping[str, Sequence[str]]
    progress: Progress
    implausible: Implausibility | None
    cases: tuple[CaseRow, ...]
    ended_badly: tuple[BadCapture, ...]
    without_captures: tuple[AbsentRow, ...]
    identity_conflicts: tuple[IdentityConflict, ...]
    drift: tuple[Drift, ...]
    evidence: Mapping[int, CaseEvidence]

    @property
    def ended_well(self) -> bool:
        """Whether nobody has to look at anything but the results: every capture was screened, every patient has some,
        all of them are accounted for, none are held, and the run can be believed.
        """
        now = self.progress
        return not (
            now.some_ended_badly
            or now.held
            or (now.finished and not now.accounted_for)
            or not UNSCREENED.isdisjoint(self.skipped)
            or self.implausible
        )

    @property
    def training_sentence(self) -> str | None:
        """How many of its screened captures the bundle was made with, if there are any."""
        return training_sentence(self.in_training, self.run.screened)


def read_run(engine: Engine, run_id: int, evidence: EvidenceLimits | None = None) -> RunReport:
    """Read a run, with evidence only within these limits. Raises NoSuchRun."""
    with reading(engine) as connection:
        return _read(connection, run_id, Case.run_id == run_id, evidence)


def read_case(engine: Engine, run_id: int, case_id: int, evidence: EvidenceLimits) -> RunReport:
    """Read a run as if it had only this one of its cases; its sums stay those of the whole run. Raises NoSuchRun."""
    with reading(engine) as connection:
        return _read(connection, run_id, Case.id == case_id, evidence)


def _read(
    connection: Connection, run_id: int, chosen: ColumnElement[bool], evidence: EvidenceLimits | None
) -> RunReport:
    """`chosen` says which cases are read."""
    run = named_run(connection, run_id)
    cases = _cases(connection, run_id, chosen, run.manifest.case_policy)
    engines = select(Capture.engine).where(Capture.run_id == run_id, Capture.engine.is_not(None)).distinct()
    return RunReport(
        run=run_summary(connection, run_id),
        database=uuid_of(connection),
        root=run.root,
        pseudonym_key=run.pseudonym_key,
        manifest=run.manifest,
        warnings=tuple(bundle_warnings(run.manifest)),
        in_training=in_training(connection, run.bundle_digest, run_id=run_id),
        engines=tuple(sorted(name for name in connection.execute(engines).scalars() if name)),
        skipped=_skipped(connection, run_id),
        progress=progress_of(connection, run_id),
        implausible=implausibility_of(connection, run),
        cases=cases,
        ended_badly=_ended_badly(connection, run_id, chosen),
        without_captures=absent_of_run(connection, run_id),
        identity_conflicts=_identity_conflicts(connection, chosen),
        drift=tuple(drift_of(connection, run)),
        evidence={} if evidence is None else _evidence(connection, cases, evidence),
    )


def may_lack_captures(engine: Engine, run_id: int) -> bool:
    """Whether the walk skipped what may be captures, so that they are missing in their patients' cases."""
    with reading(engine) as connection:
        return not UNSCREENED.isdisjoint(_skipped(connection, run_id))


def _skipped(connection: Connection, run_id: int) -> Mapping[str, Sequence[str]]:
    """What the walk skipped: reason -> names."""
    return connection.execute(select(Run.skipped_files).where(Run.id == run_id)).scalar() or {}


_OF_CASE = [
    field.name for field in fields(CaseRow) if field.name not in ("case_id", "patient", "reasons", "policy", "review")
]
_OF_REVIEW = [field.name for field in fields(Review) if field.name != "signed"]


def _cases(connection: Connection, run_id: int, chosen: ColumnElement[bool], policy: CasePolicy) -> tuple[CaseRow, ...]:
    rows = connection.execute(
        select(
            Case.id.label("case_id"), Patient.external_id.label("patient"), Case.reasons, Case.case_policy,
            *(getattr(Case, name) for name in _OF_CASE),
            *(CASE_REVIEW.c[name].label(f"review_{name}") for name in _OF_REVIEW),
        )
        .join(Patient, Patient.id == Case.patient_id)
        .outerjoin(CASE_REVIEW, CASE_REVIEW.c.case_id == Case.id)
        .where(chosen)
        .order_by(Case.priority.is_(None), Case.priority.desc(), Patient.external_id)
    ).mappings()  # fmt: skip
    signed = signed_histories(connection, run_id)
    return tuple(_case(row, policy, signed.get(row["case_id"], SignedHistory())) for row in rows)


def _case(row: RowMapping, policy: CasePolicy, signed: SignedHistory) -> CaseRow:
    review = {name: row[f"review_{name}"] for name in _OF_REVIEW}
    verdict = row["verdict"]
    return CaseRow(
        case_id=row["case_id"],
        patient=row["patient"],
        reasons=tuple(Reason(**reason) for reason in row["reasons"] or ()),
        policy=policy if row["case_policy"] is None else CasePolicy.model_validate(row["case_policy"]),
        review=None if review["state"] is None else Review(**review, signed=signed),
        **{name: row[name] for name in _OF_CASE}
        | {"state": CaseState(row["state"]), "verdict": verdict and Verdict(verdict)},
    )  # fmt: skip


def _ended_badly(connection: Connection, run_id: int, chosen: ColumnElement[bool]) -> tuple[BadCapture, ...]:
    rows = connection.execute(
        select(
            Capture.id, Patient.external_id, Capture.path_text, Capture.state, Capture.reject_code, Capture.reason,
        )
        .join(Case, Case.id == Capture.case_id)
        .join(Patient, Patient.id == Case.patient_id)
        .where(Capture.run_id == run_id, Capture.state.in_((CaptureState.REJECTED, CaptureState.QUARANTINED)), chosen)
        .order_by(Capture.path_text)
    )  # fmt: skip
    return tuple(
        BadCapture(
            row.id, row.external_id, row.path_text, CaptureState(row.state),
            row.reject_code and RejectCode(row.reject_code), row.reason,
        )
        for row in rows
    )  # fmt: skip


def _identity_conflicts(connection: Connection, chosen: ColumnElement[bool]) -> tuple[IdentityConflict, ...]:
    """At most CONFLICTS_OF_A_CASE conflicts for each of at most CONFLICTING_CASES cases, the most urgent first: one
    picture under a thousand patients makes a million pairs.
    """
    cases = (
        select(Case.id)
        .where(chosen, Case.identity_conflict.is_(True))
        .order_by(Case.priority.desc(), Case.id)
        .limit(CONFLICTING_CASES)
    )
    conflicts = [
        IdentityConflict(**row)
        for case_id in connection.execute(cases).scalars().all()
        for row in connection.execute(
            select(CONFLICTS).where(CONFLICTS.c.case_id == case_id, CONFLICTS.c.settled == 0).limit(CONFLICTS_OF_A_CASE)
        ).mappings()
    ]
    return tuple(sorted(conflicts, key=lambda conflict: (conflict.patient, conflict.path, conflict.other_path)))


def _evidence(connection: Connection, cases: Sequence[CaseRow], limits: EvidenceLimits) -> dict[int, CaseEvidence]:
    finished = [case.case_id for case in cases if case.verdict is not None]
    return {
        case_id: CaseEvidence(
            _captures(connection, case_id, excluded=False, limit=limits.counting),
            _captures(connection, case_id, excluded=True, limit=limits.excluded),
            _scores(connection, case_id),
            _cells(connection, case_id),
        )
        for case_id in finished[: limits.cases]
    }


_CAPTURE = (
    Capture.id.label("capture_id"), Capture.path, Capture.path_text, Capture.p_all, Capture.size_bytes, Capture.sha256,
)  # fmt: skip
"""The columns of a ScreenedCapture."""


def _screened(
    columns: Sequence[ColumnElement[Any] | QueryableAttribute[Any]], case_id: int, *, excluded: bool
) -> Select[Any]:
    """Captures of a case that count, or that do not, by falling P(ALL)."""
    return (
        select(*_CAPTURE, *columns)
        .where(Capture.case_id == case_id, Capture.state == CaptureState.SCREENED)
        .where(func.coalesce(Capture.excluded, False) == excluded)
        .order_by(Capture.p_all.desc(), Capture.id)
    )


def _captures(connection: Connection, case_id: int, *, excluded: bool, limit: int) -> tuple[CaptureEvidence, ...]:
    columns = (Capture.label, Capture.probability, Capture.probabilities, Capture.marks)
    rows = connection.execute(_screened(columns, case_id, excluded=excluded).limit(limit)).mappings()
    return tuple(
        CaptureEvidence(
            **dict(row, probabilities=tuple(row["probabilities"]), marks=tuple(map(Mark.stored, row["marks"] or ())))
        )
        for row in rows
    )


def _cells(connection: Connection, case_id: int) -> tuple[CaptureCells, ...]:
    found = _screened((Capture.width, Capture.height, of_original("cells")), case_id, excluded=False)
    found = found.outerjoin(ORIGINAL, ORIGINAL.id == Capture.reused_from).where(Capture.nucleated_cells > 0)
    return tuple(CaptureCells(**row) for row in connection.execute(found).mappings())


def _scores(connection: Connection, case_id: int) -> tuple[tuple[float, bool], ...]:
    rows = connection.execute(
        select(Capture.p_all, func.coalesce(Capture.excluded, False).label("excluded")).where(
            Capture.case_id == case_id, Capture.state == CaptureState.SCREENED, Capture.p_all.is_not(None)
        )
    )
    return tuple((row.p_all, row.excluded) for row in rows)
