"""Finishing a chunk: one transaction writes its captures, marks it done, and gives every case that is complete now
its result and its row in the reporting queue, exactly once.

Whoever writes the last capture of a case aggregates it. Two workers finishing a case's last two chunks at the same
instant both lock the case row first and recount from the rows, so the second one sees what the first one wrote; the
guarded UPDATE keeps the result single all the same.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, bindparam, func, insert, select, update

from contract.bundle import Manifest
from contract.case_policy import CaseCounts, CaseResult, judge
from contract.errors import LeaseLost
from contract.outcomes import ChunkOutcome
from contract.states import CaptureState, CaseState, ChunkState
from db.clock import db_now
from db.engine import writing
from db.lease import Lease, held_by
from db.models import BundleRow, Capture, Case, Chunk, ReportQueue, Run


def finish_chunk(engine: Engine, lease: Lease, outcome: ChunkOutcome) -> None:
    """Write a chunk's outcome. Every capture of the lease must be in exactly one of the two lists.

    Raises LeaseLost, and writes nothing, where the chunk belongs to somebody else by now. Safe to run again when the
    answer to its commit was lost: then the chunk is done, and LeaseLost says so.
    """
    ended = [one.capture_id for one in outcome.screened] + [one.capture_id for one in outcome.rejected]
    if sorted(ended) != sorted(one.id for one in lease.captures):
        raise AssertionError(f"chunk {lease.chunk_id}: {len(ended)} outcomes for {len(lease.captures)} captures")
    with writing(engine) as connection:
        case_ids = lock_cases(connection, lease.chunk_id)
        done = connection.execute(
            update(Chunk)
            .where(held_by(lease))
            .values(
                state=ChunkState.DONE, lease_token=None, lease_until=None, done_at=db_now(), seconds=outcome.seconds
            )
        ).rowcount
        if not done:
            raise LeaseLost(f"chunk {lease.chunk_id} is no longer this worker's; its result is not written")
        _write_captures(connection, outcome)
        aggregate_finished_cases(connection, case_ids)


def lock_cases(connection: Connection, chunk_id: int) -> list[int]:
    """Lock the chunk's cases, in the order of their ids so that two workers cannot wait for each other."""
    in_chunk = select(Capture.case_id).where(Capture.chunk_id == chunk_id)
    return list(
        connection.execute(select(Case.id).where(Case.id.in_(in_chunk)).order_by(Case.id).with_for_update()).scalars()
    )


def _write_captures(connection: Connection, outcome: ChunkOutcome) -> None:
    common = {"state": bindparam("state_"), "sha256": bindparam("sha256_"), "ended_at": db_now()}
    target = update(Capture).where(Capture.id == bindparam("id_"), Capture.state == CaptureState.PENDING)
    if outcome.screened:
        fields = ("label", "probability", "p_all", "probabilities", "cam", "width", "height")
        values = {name: bindparam(f"{name}_", type_=Capture.__table__.c[name].type) for name in fields}
        connection.execute(
            target.values(**common, **values, engine=outcome.engine),
            [
                {"id_": one.capture_id, "state_": CaptureState.SCREENED, "sha256_": one.sha256}
                | {f"{name}_": getattr(one, name) for name in fields}
                for one in outcome.screened
            ],
        )
    if outcome.rejected:
        connection.execute(
            target.values(**common, reject_code=bindparam("code_"), reason=bindparam("reason_")),
            [
                {
                    "id_": one.capture_id,
                    "state_": CaptureState.REJECTED,
                    "sha256_": one.sha256,
                    "code_": one.code,
                    "reason_": one.reason,
                }
                for one in outcome.rejected
            ],
        )


def aggregate_finished_cases(connection: Connection, case_ids: Sequence[int]) -> None:
    """Give each of these cases that has no pending capture left its result. The caller holds their row locks."""
    if not case_ids:
        return
    unfinished = select(Capture.case_id).where(Capture.case_id.in_(case_ids), Capture.state == CaptureState.PENDING)
    finished = connection.execute(
        select(Case.id, Case.run_id, Case.submitted, Run.bundle_digest)
        .join(Run, Run.id == Case.run_id)
        .where(Case.id.in_(case_ids), Case.state == CaseState.OPEN, Case.id.not_in(unfinished))
        .order_by(Case.id)
    ).all()
    manifests: dict[str, Manifest] = {}
    for case in finished:
        if case.bundle_digest not in manifests:
            manifests[case.bundle_digest] = _manifest(connection, case.bundle_digest)
        _aggregate(connection, case.id, case.run_id, case.submitted, manifests[case.bundle_digest])


def _manifest(connection: Connection, digest: str) -> Manifest:
    stored = connection.execute(select(BundleRow.manifest).where(BundleRow.digest == digest)).scalar_one()
    return Manifest.model_validate(stored)


def _aggregate(connection: Connection, case_id: int, run_id: int, submitted: int, manifest: Manifest) -> None:
    counts = case_counts(connection, case_id, submitted)
    result = case_result(connection, case_id, counts, manifest)
    policy = manifest.case_policy
    written = connection.execute(
        update(Case)
        .where(Case.id == case_id, Case.state == CaseState.OPEN)
        .values(
            state=CaseState.AGGREGATED,
            screened=counts.screened,
            rejected=counts.rejected,
            quarantined=counts.quarantined,
            case_rule=f"{policy.rule}/{policy.version}",
            aggregated_at=db_now(),
            **_result_columns(result),
        )
    ).rowcount
    if written:
        last = connection.execute(select(func.max(ReportQueue.id)).where(ReportQueue.case_id == case_id)).scalar()
        cause = "screened" if last is None else "recomputed"  # captures were tried again: a corrected result
        connection.execute(insert(ReportQueue).values(run_id=run_id, case_id=case_id, cause=cause, replaces_id=last))


def _result_columns(result: CaseResult) -> dict[str, Any]:
    return {
        "verdict": result.verdict,
        "score": result.score,
        "score_low": result.score_low,
        "score_high": result.score_high,
        "subtype": result.subtype,
        "subtype_margin": result.subtype_margin,
        "priority": result.priority,
        "reasons": [asdict(reason) for reason in result.reasons],
    }


def case_counts(connection: Connection, case_id: int, submitted: int) -> CaseCounts:
    """How the case's captures ended, counted from their rows."""
    rows = connection.execute(
        select(Capture.state, func.count()).where(Capture.case_id == case_id).group_by(Capture.state)
    )
    by_state: dict[str, int] = dict(rows.all())
    return CaseCounts(
        submitted,
        by_state.get(CaptureState.SCREENED, 0),
        by_state.get(CaptureState.REJECTED, 0),
        by_state.get(CaptureState.QUARANTINED, 0),
    )


def case_result(connection: Connection, case_id: int, counts: CaseCounts, manifest: Manifest) -> CaseResult:
    """Apply the bundle's case policy to the rows of a case; the same rows always give the same result."""
    rows = connection.execute(
        select(Capture.probabilities)
        .where(Capture.case_id == case_id, Capture.state == CaptureState.SCREENED)
        .order_by(Capture.id)
    ).scalars()
    probabilities = np.array(list(rows), dtype=np.float64).reshape(-1, len(manifest.labels))
    return judge(manifest.case_policy, manifest.labels, manifest.benign_label, probabilities, counts)
