"""What `screen status`, `watch` and `report` read. Every function is one short reading transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, RowMapping, func, select, text

from contract.errors import NoSuchRun
from contract.states import CaptureState, ChunkState
from db.clock import UTCDateTime, db_now
from db.engine import reading
from db.models import BundleRow, Capture, Case, Chunk, Event, Patient, Run
from db.opinions import CASE_REVIEW


@dataclass(frozen=True)
class Progress:
    """Where a run stands. The rate is that of the last minute, by the database's clock."""

    submitted: int
    screened: int
    rejected: int
    quarantined: int
    cases: int
    cases_finished: int
    chunks_leased: int
    recent_per_s: float
    cancelled: bool
    trouble: str | None
    """Why a chunk that is pending now was given back, if one was."""

    @property
    def ended(self) -> int:
        return self.screened + self.rejected + self.quarantined

    @property
    def finished(self) -> bool:
        return self.cases_finished == self.cases

    @property
    def accounted_for(self) -> bool:
        """submitted = screened + rejected + quarantined."""
        return self.ended == self.submitted


RATE_WINDOW_S = 60
CONFLICTING_CASES, CONFLICTS_OF_A_CASE = 100, 5
"""What a report names of each of them; the view has all."""


def _rate(done: Sequence[tuple[datetime, int]], now: datetime) -> float:
    """Captures per second since the first of these chunks was done; its own captures came before that."""
    elapsed = (now - done[0][0]).total_seconds()
    return sum(captures for _, captures in done[1:]) / elapsed if elapsed > 0 else 0.0


def progress(engine: Engine, run_id: int) -> Progress:
    """Raises NoSuchRun."""
    with reading(engine) as connection:
        run = connection.execute(select(Run.submitted, Run.cases, Run.cancelled_at).where(Run.id == run_id)).first()
        if run is None:
            raise NoSuchRun(f"there is no run {run_id}; `screen status` lists the runs")
        states: dict[str, int] = dict(
            connection.execute(
                select(Capture.state, func.count()).where(Capture.run_id == run_id).group_by(Capture.state)
            ).all()
        )
        cases = connection.execute(
            select(func.count()).select_from(Case).where(Case.run_id == run_id, Case.aggregated_at.is_not(None))
        ).scalar_one()
        leased = connection.execute(
            select(func.count()).select_from(Chunk).where(Chunk.run_id == run_id, Chunk.state == ChunkState.LEASED)
        ).scalar_one()
        recent = connection.execute(
            select(Chunk.done_at, Chunk.captures, db_now().label("now"))
            .where(Chunk.run_id == run_id, Chunk.state == ChunkState.DONE, Chunk.done_at > db_now(-RATE_WINDOW_S))
            .order_by(Chunk.done_at)
        ).all()
        trouble = connection.execute(
            select(Chunk.last_error)
            .where(Chunk.run_id == run_id, Chunk.state == ChunkState.PENDING, Chunk.last_error.is_not(None))
            .order_by(Chunk.id)
            .limit(1)
        ).scalar()
        return Progress(
            submitted=run.submitted,
            screened=states.get(CaptureState.SCREENED, 0),
            rejected=states.get(CaptureState.REJECTED, 0),
            quarantined=states.get(CaptureState.QUARANTINED, 0),
            cases=run.cases,
            cases_finished=cases,
            chunks_leased=leased,
            recent_per_s=_rate([(row.done_at, row.captures) for row in recent], recent[0].now) if recent else 0.0,
            cancelled=run.cancelled_at is not None,
            trouble=trouble,
        )


def run_summaries(engine: Engine, run_id: int | None = None) -> list[dict[str, Any]]:
    """Rows of the view run_summary, newest first. Raises NoSuchRun where `run_id` names none."""
    where = "" if run_id is None else "WHERE run_id = :run"
    statement = text(f"SELECT * FROM run_summary {where} ORDER BY run_id DESC")  # noqa: S608 - no input in it
    with reading(engine) as connection:
        rows = [_row(one) for one in connection.execute(_typed(statement), {"run": run_id} if where else {}).mappings()]
    if run_id is not None and not rows:
        raise NoSuchRun(f"there is no run {run_id}; `screen status` lists the runs")
    return rows


def case_results(engine: Engine, run_id: int) -> list[dict[str, Any]]:
    """Cases of a run, the most urgent first; open ones last."""
    statement = (
        select(
            Case.id.label("case_id"), Patient.external_id.label("patient"), Case.state, Case.verdict, Case.subtype,
            Case.subtype_margin, Case.score, Case.score_low, Case.score_high, Case.priority, Case.submitted,
            Case.screened, Case.rejected, Case.quarantined, Case.reasons, Case.case_rule, Case.aggregated_at,
            Case.identity_conflict, Case.excluded, Case.novel,
        )
        .join(Patient, Patient.id == Case.patient_id)
        .where(Case.run_id == run_id)
        .order_by(Case.priority.is_(None), Case.priority.desc(), Patient.external_id)
    )  # fmt: skip
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def reported_cases(engine: Engine, run_id: int) -> list[dict[str, Any]]:
    """Finished cases of a run with where their review stands: the proposal, and what reviewers agree on."""
    review = ("state", "final_verdict", "final_subtype", "closed_at")
    statement = (
        select(
            Case.id.label("case_id"), Patient.external_id.label("patient"), Case.verdict, Case.subtype, Case.score,
            Case.score_low, Case.score_high, Case.submitted, Case.screened, Case.rejected, Case.quarantined,
            Case.excluded, Case.reasons, Case.aggregated_at, *(CASE_REVIEW.c[name] for name in review),
        )
        .join(Patient, Patient.id == Case.patient_id)
        .join(CASE_REVIEW, CASE_REVIEW.c.case_id == Case.id)
        .where(Case.run_id == run_id)
        .order_by(Case.priority.desc(), Case.id)
    )  # fmt: skip
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def ended_badly(engine: Engine, run_id: int) -> list[dict[str, Any]]:
    """Every rejected or quarantined capture of a run, with its reason."""
    statement = (
        select(
            Capture.id.label("capture_id"), Patient.external_id.label("patient"), Capture.path_text.label("path"),
            Capture.state, Capture.reject_code, Capture.reason,
        )
        .join(Case, Case.id == Capture.case_id)
        .join(Patient, Patient.id == Case.patient_id)
        .where(Capture.run_id == run_id, Capture.state.in_((CaptureState.REJECTED, CaptureState.QUARANTINED)))
        .order_by(Capture.path_text)
    )  # fmt: skip
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def identity_conflicts(engine: Engine, run_id: int) -> list[dict[str, Any]]:
    """Captures of a run that lie, byte for byte, under another patient too: rows of the view identity_conflicts.

    At most CONFLICTS_OF_A_CASE of each case, of CONFLICTING_CASES cases, the most urgent first: one picture under a
    thousand patients makes a million pairs.
    """
    cases = (
        select(Case.id)
        .where(Case.run_id == run_id, Case.identity_conflict.is_(True))
        .order_by(Case.priority.desc(), Case.id)
        .limit(CONFLICTING_CASES)
    )
    pairs = text("SELECT * FROM identity_conflicts WHERE case_id = :case LIMIT :most")
    with reading(engine) as connection:
        found = [
            dict(row)
            for case_id in connection.execute(cases).scalars().all()
            for row in connection.execute(pairs, {"case": case_id, "most": CONFLICTS_OF_A_CASE}).mappings()
        ]
    return sorted(found, key=lambda row: (row["patient"], row["path"], row["other_path"]))


def evidence_of(engine: Engine, case_id: int, *, excluded: bool, limit: int) -> list[dict[str, Any]]:
    """Screened captures of a case with what the engine said of each, by falling P(ALL): those that count for its
    result, or those that are excluded.
    """
    statement = (
        select(
            Capture.id, Capture.path, Capture.path_text, Capture.label, Capture.probability, Capture.p_all,
            Capture.probabilities, Capture.cam, Capture.marks,
        )
        .where(Capture.case_id == case_id, Capture.state == CaptureState.SCREENED)
        .where(func.coalesce(Capture.excluded, False) == excluded)
        .order_by(Capture.p_all.desc(), Capture.id)
        .limit(limit)
    )  # fmt: skip
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def capture_scores(engine: Engine, case_id: int) -> list[tuple[float, bool]]:
    """P(ALL) of every screened capture of a case, and whether it is excluded."""
    statement = select(Capture.p_all, func.coalesce(Capture.excluded, False)).where(
        Capture.case_id == case_id, Capture.state == CaptureState.SCREENED
    )
    with reading(engine) as connection:
        return [(p_all, excluded) for p_all, excluded in connection.execute(statement) if p_all is not None]


def run_details(engine: Engine, run_id: int) -> dict[str, Any]:
    """What a report's head says: the archive, the bundle's manifest, what was skipped, the engines used.

    Raises NoSuchRun.
    """
    with reading(engine) as connection:
        run = connection.execute(
            select(Run.root, Run.pseudonym_key, BundleRow.manifest)
            .join(BundleRow, BundleRow.digest == Run.bundle_digest)
            .where(Run.id == run_id)
        ).first()
        if run is None:
            raise NoSuchRun(f"there is no run {run_id}; `screen status` lists the runs")
        submitted = connection.execute(
            select(Event.detail).where(Event.run_id == run_id, Event.kind == "submitted").order_by(Event.id)
        ).scalar()
        engines = connection.execute(
            select(Capture.engine).where(Capture.run_id == run_id, Capture.engine.is_not(None)).distinct()
        ).scalars()
        return {
            "root": run.root,
            "pseudonym_key": run.pseudonym_key,
            "manifest": run.manifest,
            "skipped": (submitted or {}).get("skipped", {}),
            "engines": sorted(name for name in engines if name),
        }


def _typed(statement: Any) -> Any:
    """Times in a view's rows are text on SQLite; read them as times."""
    return statement.columns(**{name: UTCDateTime() for name in ("created_at", "cancelled_at", "finished_at")})


def _row(row: RowMapping) -> dict[str, Any]:
    return {name: int(value) if name in _COUNTS and value is not None else value for name, value in row.items()}


_COUNTS = frozenset({"screened", "rejected", "quarantined", "pending", "reused", "cases_finished", "cases_benign",
                     "cases_all", "cases_indeterminate", "cases_insufficient"})  # fmt: skip
