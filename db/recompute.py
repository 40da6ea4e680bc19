"""Computes results again from their rows, by the bundle's case rule or another one."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Connection, Engine, select, update

from contract.case_policy import CasePolicy
from contract.states import CaseState, EventKind, Verdict
from db.aggregation import ToJudge, judge_again, result_of, shares_captures
from db.audit import note
from db.clock import db_now
from db.compare import same_value
from db.engine import reading, writing
from db.mix_ups import one_at_a_time, silent_others
from db.models import Case, Patient
from db.opinions import signed
from db.report_queue import queue_result
from db.runs import named_run


@dataclass(frozen=True)
class Result:
    """What a change shows of a case's result."""

    verdict: Verdict
    subtype: str | None
    score: float | None
    priority: float


_SHOWN = [field.name for field in fields(Result)]


@dataclass(frozen=True)
class Change:
    """A case's result before and after. `signed`: a reviewer's opinion counts for the case."""

    case_id: int
    patient: str
    before: Result
    after: Result
    signed: bool

    @property
    def differs(self) -> bool:
        return not all(same_value(getattr(self.before, name), getattr(self.after, name)) for name in _SHOWN)


def bundle_policy(engine: Engine, run_id: int) -> CasePolicy:
    """The case rule of the run's bundle. Raises NoSuchRun."""
    with reading(engine) as connection:
        return named_run(connection, run_id).manifest.case_policy


def recompute(engine: Engine, run_id: int, policy: CasePolicy, *, apply: bool, actor: str) -> list[Change]:
    """Apply `policy` to the rows of every finished case of a run; returns the cases whose result differs.

    Without `apply` nothing is written. With it, this policy applies from then on to every case that no reviewer has
    signed; a case whose result differs gets a row in the reporting queue that replaces the one before, and its old
    result is kept in the event `recomputed`.

    Raises NoSuchRun.
    """
    if not apply:
        with reading(engine) as connection:
            return [change for change, _ in _judged(connection, run_id, policy, lock=False) if change.differs]
    with writing(engine) as connection:
        one_at_a_time(connection)
        judged = _judged(connection, run_id, policy, lock=True)
        of_bundle = named_run(connection, run_id).manifest.case_policy
        case_policy = None if policy == of_bundle else policy.model_dump(mode="json")
        for change, columns in judged:
            if not change.signed:
                values = {**columns, "case_policy": case_policy}
                connection.execute(update(Case).where(Case.id == change.case_id).values(values))
        for change, columns in judged:
            if shares_captures(columns):
                judge_again(connection, silent_others(connection, change.case_id), in_conflict=False)
        written = [change for change, _ in judged if change.differs and not change.signed]
        again = {"aggregated_at": db_now(), "result_version": Case.result_version + 1}
        for change in written:
            connection.execute(update(Case).where(Case.id == change.case_id).values(again))
            queue_result(connection, change.case_id)
        detail = {
            "policy": policy.model_dump(mode="json"),
            "results_before": {str(change.case_id): asdict(change.before) for change in written},
        }
        note(connection, EventKind.RECOMPUTED, actor=actor, run_id=run_id, detail=detail)
        return [change for change, _ in judged if change.differs]


def _judged(
    connection: Connection, run_id: int, policy: CasePolicy, *, lock: bool
) -> list[tuple[Change, dict[str, Any]]]:
    manifest = named_run(connection, run_id).manifest.model_copy(update={"case_policy": policy})
    finished = (
        select(
            Case.id, Case.submitted, Case.verdict, Case.subtype, Case.score, Case.priority,
            Patient.external_id, signed().label("signed"),
        )
        .join(Patient, Patient.id == Case.patient_id)
        .where(Case.run_id == run_id, Case.state == CaseState.AGGREGATED)
        .where(Case.submitted > 0)  # no rule decides on a case without captures
        .order_by(Case.priority.desc(), Case.id)
    )  # fmt: skip
    if lock:  # before reading the opinions, to wait for reviewers who sign at this moment; never open cases, which a
        # worker has locked that waits for its turn (`one_at_a_time`)
        of_run = select(Case.id).where(Case.run_id == run_id, Case.state == CaseState.AGGREGATED)
        connection.execute(of_run.order_by(Case.id).with_for_update()).all()
    cases = connection.execute(finished).all()
    judged = []
    for case in cases:
        columns = result_of(connection, ToJudge(case.id, case.submitted, manifest))
        before = Result(Verdict(case.verdict), case.subtype, case.score, case.priority)
        after = Result(**{name: columns[name] for name in _SHOWN})
        judged.append((Change(case.id, case.external_id, before, after, bool(case.signed)), columns))
    return judged
