"""A case's result from the rows of its captures: written when the last one has ended, corrected when that is needed.

The transaction that writes the last capture of a case aggregates the case. If two workers finish a case's last two
chunks at the same instant, both lock the case row first and recount from the rows, so the second one sees what the
first one wrote. The condition of the UPDATE makes sure that there is only one result.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, func, select, update

from contract.bundle import Manifest
from contract.case_policy import CasePolicy
from contract.case_rule import IDENTITY_CONFLICT, CaseCounts, CaseResult, JudgedCapture, judge, judge_emptied
from contract.settled import IDENTITY_SETTLED, beside_settlement
from contract.signed import beside_signed
from contract.states import CaptureState, CaseState, EventKind
from db.absent import emptied
from db.audit import WORKER, note
from db.clock import db_now
from db.engine import AnyRow, slices
from db.mix_ups import is_in_conflict, one_at_a_time, perhaps_freed, silent_others
from db.models import BundleRow, Capture, Case, Run
from db.report_queue import queue_result
from db.settlements import settlement_of
from db.superseding import signed_before, supersede


def lock_cases(connection: Connection, chunk_id: int) -> list[int]:
    """Lock the chunk's cases in the order of their ids, so that two workers cannot wait for each other."""
    in_chunk = select(Capture.case_id).where(Capture.chunk_id == chunk_id)
    return list(
        connection.execute(select(Case.id).where(Case.id.in_(in_chunk)).order_by(Case.id).with_for_update()).scalars()
    )


def aggregate_finished_cases(connection: Connection, case_ids: Sequence[int]) -> None:
    """Write the result of each of these cases that has no pending capture. The caller holds their row locks."""
    if not case_ids:
        return
    one_at_a_time(connection)
    unfinished = select(Capture.case_id).where(Capture.case_id.in_(case_ids), Capture.state == CaptureState.PENDING)
    finished = connection.execute(
        select(Case.id, Case.run_id, Case.submitted, Run.bundle_digest, Run.cancelled_at)
        .join(Run, Run.id == Case.run_id)
        .where(Case.id.in_(case_ids), Case.state == CaseState.OPEN, Case.id.not_in(unfinished))
        .order_by(Case.id)
    ).all()
    manifests: dict[str, Manifest] = {}
    for case in finished:
        if case.bundle_digest not in manifests:
            manifests[case.bundle_digest] = _manifest(connection, case.bundle_digest)
        _aggregate(connection, case, manifests[case.bundle_digest])


def _manifest(connection: Connection, digest: str) -> Manifest:
    stored = connection.execute(select(BundleRow.manifest).where(BundleRow.digest == digest)).scalar_one()
    return Manifest.model_validate(stored)


def with_policy(manifest: Manifest, policy: dict[str, Any] | None) -> Manifest:
    """The manifest, with the policy that a case was recomputed with if there is one."""
    if policy is None:
        return manifest
    return manifest.model_copy(update={"case_policy": CasePolicy.model_validate(policy)})


def _aggregate(connection: Connection, case: AnyRow, manifest: Manifest) -> None:
    # First: it waits for reviewers who sign an earlier case at this moment, and the result says what they signed.
    supersede(connection, case.id, cancelled=case.cancelled_at is not None)
    counts = case_counts(connection, case.id, case.submitted)
    columns = result_columns(connection, case.id, counts, manifest)
    written = connection.execute(
        update(Case)
        .where(Case.id == case.id, Case.state == CaseState.OPEN)
        .values(
            state=CaseState.AGGREGATED,
            screened=counts.screened,
            rejected=counts.rejected,
            quarantined=counts.quarantined,
            aggregated_at=db_now(),
            result_version=Case.result_version + 1,
            **columns,
        )
    ).rowcount
    if written:
        queue_result(connection, case.run_id, case.id)
        judge_again(connection, perhaps_freed(connection, case.id), in_conflict=True)
        if shares_captures(columns):  # they may be copies, which no worker wrote
            judge_again(connection, silent_others(connection, case.id), in_conflict=False)


def judge_again(connection: Connection, case_ids: Sequence[int], *, in_conflict: bool) -> None:
    """Judge the finished ones of these cases whose result says `in_conflict`, and correct those where that changed."""
    for ids in slices(case_ids, 500):
        cases = connection.execute(
            select(Case.id, Case.run_id, Case.submitted, Case.case_policy, Run.bundle_digest)
            .join(Run, Run.id == Case.run_id)
            .where(Case.id.in_(ids), Case.state == CaseState.AGGREGATED)
            .where(func.coalesce(Case.identity_conflict, False) == in_conflict)
            .order_by(Case.id)
            .with_for_update(of=Case)
        ).all()
        for case in cases:
            counts = case_counts(connection, case.id, case.submitted)
            manifest = with_policy(_manifest(connection, case.bundle_digest), case.case_policy)
            columns = result_columns(connection, case.id, counts, manifest)
            if columns["identity_conflict"] != in_conflict:
                write_identity(connection, case.run_id, case.id, columns, actor=WORKER)


def write_identity(
    connection: Connection, run_id: int, case_id: int, columns: dict[str, Any], *, actor: str, **detail: int
) -> None:
    """Correct the result of a case that is in conflict now, or no longer: also in the queue, and in the audit."""
    columns["result_version"] = Case.result_version + 1
    connection.execute(update(Case).where(Case.id == case_id).values(columns))
    queue_result(connection, run_id, case_id)
    note(
        connection, EventKind.IDENTITY_CONFLICT, actor=actor, run_id=run_id, case_id=case_id,
        detail={"conflict": columns["identity_conflict"], **detail},
    )  # fmt: skip


def shares_captures(columns: dict[str, Any]) -> bool:
    """Whether a result says that captures lie under another patient too, settled for its own patient or not."""
    return any(reason["code"] in (IDENTITY_CONFLICT.code, IDENTITY_SETTLED) for reason in columns["reasons"])


def result_columns(connection: Connection, case_id: int, counts: CaseCounts, manifest: Manifest) -> dict[str, Any]:
    """The columns of a case's result, by the rule in this manifest."""
    policy = manifest.case_policy
    result = case_result(connection, case_id, counts, manifest)
    return {
        "case_rule": f"{policy.rule}/{policy.version}",
        "identity_conflict": IDENTITY_CONFLICT in result.reasons,
        "verdict": result.verdict,
        "score": result.score,
        "score_low": result.score_low,
        "score_high": result.score_high,
        "subtype": result.subtype,
        "subtype_margin": result.subtype_margin,
        "priority": result.priority,
        "excluded": result.excluded,
        "novel": result.novel,
        "reasons": [asdict(reason) for reason in result.reasons],
    }


def case_counts(connection: Connection, case_id: int, submitted: int) -> CaseCounts:
    """Count from the rows how the case's captures ended."""
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
    """Apply the bundle's case policy to the rows of a case; beside what was signed for the patient before.

    The same rows and opinions always give the same result. A case without captures, which only a submit makes,
    withdraws an earlier result and says itself whether that was signed.
    """
    if not counts.submitted:
        return judge_emptied(emptied(connection, case_id))
    rows = connection.execute(
        select(*JUDGED).where(Capture.case_id == case_id, Capture.state == CaptureState.SCREENED).order_by(Capture.id)
    ).all()
    conflict = is_in_conflict(connection, case_id, [row.sha256 for row in rows])
    result = judge_rows(rows, counts, manifest, identity_conflict=conflict)
    if (settlement := settlement_of(connection, case_id)) is not None:
        result = beside_settlement(result, settlement)
    signed = signed_before(connection, case_id)
    return result if signed is None else beside_signed(result, signed)


JUDGED = (Capture.probabilities, Capture.sha256, Capture.marks)
"""The columns of a screened capture that the case rule uses."""


def judge_rows(
    rows: Sequence[AnyRow], counts: CaseCounts, manifest: Manifest, *, identity_conflict: bool = False
) -> CaseResult:
    """Apply the manifest's case policy to the screened captures of one case: rows with the columns JUDGED."""
    return judge(
        [JudgedCapture(row.probabilities, row.sha256, [mark["code"] for mark in row.marks or ()]) for row in rows],
        policy=manifest.case_policy,
        labels=manifest.labels,
        benign_label=manifest.benign_label,
        counts=counts,
        identity_conflict=identity_conflict,
    )
