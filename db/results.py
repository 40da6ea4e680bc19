"""Finishing a chunk: one transaction writes its captures, marks it done, and gives every case that is complete now
its result and its row in the reporting queue, exactly once.

Whoever writes the last capture of a case aggregates it. Two workers finishing a case's last two chunks at the same
instant both lock the case row first and recount from the rows, so the second one sees what the first one wrote; the
guarded UPDATE keeps the result single all the same.

A capture that lies under two patients, byte for byte, is noted at both their cases, whichever is finished first: the
transaction that writes the second of the two corrects the result of the first.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Engine, Select, bindparam, column, func, insert, select, table, text, update
from sqlalchemy.orm import aliased

from contract.bundle import Manifest
from contract.case_policy import CasePolicy
from contract.case_rule import IDENTITY_CONFLICT, CaseCounts, CaseResult, JudgedCapture, judge
from contract.errors import LeaseLost
from contract.outcomes import ChunkOutcome
from contract.states import CaptureState, CaseState, ChunkState
from db.clock import db_now
from db.engine import slices, writing
from db.lease import Lease, held_by
from db.models import BundleRow, Capture, Case, Chunk, Event, Run
from db.report_queue import queue_result

CONFLICTS = table("identity_conflicts", *map(column, ("capture_id", "case_id", "other_case_id")))
_LOCK = 0x51DE1D
"""Key of PostgreSQL's advisory lock: see `one_at_a_time`."""


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
        if shared := _in_several_cases(connection, [one.sha256 for one in outcome.screened]):
            _tell_the_other_side(connection, lease.chunk_id, shared)


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
        fields = (
            "label", "probability", "p_all", "probabilities", "cam", "width", "height", "quality", "novelty",
            "excluded", "camera", "captured_at",
        )  # fmt: skip
        values = {name: bindparam(f"{name}_", type_=Capture.__table__.c[name].type) for name in fields}
        connection.execute(
            target.values(
                **common, **values, engine=outcome.engine, marks=bindparam("marks_", type_=Capture.marks.type)
            ),
            [
                {"id_": one.capture_id, "state_": CaptureState.SCREENED, "sha256_": one.sha256}
                | {f"{name}_": getattr(one, name) for name in fields}
                | {"marks_": [asdict(mark) for mark in one.marks]}
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
    one_at_a_time(connection)
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
        _aggregate(connection, case, manifests[case.bundle_digest])


def _manifest(connection: Connection, digest: str) -> Manifest:
    stored = connection.execute(select(BundleRow.manifest).where(BundleRow.digest == digest)).scalar_one()
    return Manifest.model_validate(stored)


def with_policy(manifest: Manifest, policy: dict[str, Any] | None) -> Manifest:
    """The manifest with the policy that a case was recomputed with, if it was."""
    if policy is None:
        return manifest
    return manifest.model_copy(update={"case_policy": CasePolicy.model_validate(policy)})


def _aggregate(connection: Connection, case: Any, manifest: Manifest) -> None:
    counts = case_counts(connection, case.id, case.submitted)
    written = connection.execute(
        update(Case)
        .where(Case.id == case.id, Case.state == CaseState.OPEN)
        .values(
            state=CaseState.AGGREGATED,
            screened=counts.screened,
            rejected=counts.rejected,
            quarantined=counts.quarantined,
            aggregated_at=db_now(),
            **result_columns(connection, case.id, counts, manifest),
        )
    ).rowcount
    if written:
        queue_result(connection, case.run_id, case.id)
        _free_the_other_side(connection, case.id)


def one_at_a_time(connection: Connection) -> None:
    """From here to the commit nobody else finishes cases: each transaction sees all that the one before it wrote.

    Else two that write the same capture under two patients at the same instant would not see each other's, and the
    mix-up would be noted nowhere. SQLite has but one writer anyway. Row locks come first, so that nobody who has this
    lock waits for somebody who wants it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _in_several_cases(connection: Connection, digests: Sequence[str | None]) -> list[str]:
    """Those of these digests that captures of several cases have, be it of one patient: then the view knows more.

    Asked by the digest and nothing else: a planner that is offered the state as well takes its index, and looks at all
    captures that there are.
    """
    found: list[str | None] = []
    for some in slices(sorted(digest for digest in set(digests) if digest), 500):
        found += connection.execute(
            select(Capture.sha256)
            .where(Capture.sha256.in_(some))
            .group_by(Capture.sha256)
            .having(func.min(Capture.case_id) != func.max(Capture.case_id))
        ).scalars()
    return [digest for digest in found if digest]


def _tell_the_other_side(connection: Connection, chunk_id: int, shared: Sequence[str]) -> None:
    """Finished cases that share a capture with another patient's in this chunk are in conflict from now on."""
    mine = connection.execute(
        select(Capture.id).where(Capture.chunk_id == chunk_id, Capture.sha256.in_(shared))
    ).scalars()
    others = {
        case_id
        for capture_id in mine.all()
        for case_id in connection.execute(
            select(CONFLICTS.c.other_case_id).where(CONFLICTS.c.capture_id == capture_id)
        ).scalars()
    }
    _judge_again(connection, sorted(others), in_conflict=False)


def _free_the_other_side(connection: Connection, case_id: int) -> None:
    """The case replaces earlier ones of its patient: whoever shared a capture with those may be in conflict no more."""
    replaced = connection.execute(_REPLACED_IN_CONFLICT, {"case_id": case_id}).scalars().all()
    if not replaced:
        return
    one, other = aliased(Capture), aliased(Capture)
    shared = (
        select(other.case_id)
        .join(one, one.sha256 == other.sha256)
        .where(one.case_id.in_(replaced), other.case_id != one.case_id)
        .distinct()
    )
    _judge_again(connection, connection.execute(shared).scalars().all(), in_conflict=True)


def _replaced_in_conflict() -> Select[int]:
    """Earlier cases of the patient of `case_id`, in runs of the same archive and bundle, that are in conflict."""
    mine, earlier, run, earlier_run = aliased(Case), aliased(Case), aliased(Run), aliased(Run)
    return (
        select(earlier.id)
        .select_from(mine)
        .join(run, run.id == mine.run_id)
        .join(earlier, (earlier.patient_id == mine.patient_id) & (earlier.id < mine.id))
        .join(earlier_run, earlier_run.id == earlier.run_id)
        .where(mine.id == bindparam("case_id"), earlier.identity_conflict.is_(True))
        .where(earlier_run.root == run.root, earlier_run.bundle_digest == run.bundle_digest)
        .where(earlier_run.pseudonym_key.is_not_distinct_from(run.pseudonym_key))
    )


_REPLACED_IN_CONFLICT = _replaced_in_conflict()
"""Made once: it is asked for every case, and making it takes longer than asking."""


def _judge_again(connection: Connection, case_ids: Sequence[int], *, in_conflict: bool) -> None:
    """Correct the finished ones of these cases where it is no longer true that they are in conflict, or are not."""
    for some in slices(case_ids, 500):
        cases = connection.execute(
            select(Case.id, Case.run_id, Case.submitted, Case.case_policy, Run.bundle_digest)
            .join(Run, Run.id == Case.run_id)
            .where(Case.id.in_(some), Case.state == CaseState.AGGREGATED)
            .where(func.coalesce(Case.identity_conflict, False) == in_conflict)
            .order_by(Case.id)
            .with_for_update(of=Case)
        ).all()
        for case in cases:
            counts = case_counts(connection, case.id, case.submitted)
            manifest = with_policy(_manifest(connection, case.bundle_digest), case.case_policy)
            columns = result_columns(connection, case.id, counts, manifest)
            if columns["identity_conflict"] == in_conflict:
                continue
            connection.execute(update(Case).where(Case.id == case.id).values(columns))
            queue_result(connection, case.run_id, case.id)
            detail = {"conflict": not in_conflict}
            connection.execute(
                insert(Event).values(
                    kind="identity_conflict", run_id=case.run_id, case_id=case.id, actor="worker", detail=detail
                )
            )


def result_columns(connection: Connection, case_id: int, counts: CaseCounts, manifest: Manifest) -> dict[str, Any]:
    """What is written of a case's result, by the rule in this manifest."""
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
        select(*JUDGED).where(Capture.case_id == case_id, Capture.state == CaptureState.SCREENED).order_by(Capture.id)
    ).all()
    conflict = _is_in_conflict(connection, case_id, [row.sha256 for row in rows])
    return judge_rows(rows, counts, manifest, identity_conflict=conflict)


JUDGED = (Capture.probabilities, Capture.sha256, Capture.marks)
"""What of a screened capture the case rule looks at."""


def judge_rows(
    rows: Sequence[Any], counts: CaseCounts, manifest: Manifest, *, identity_conflict: bool = False
) -> CaseResult:
    """Apply the manifest's case policy to the screened captures of one case, rows of JUDGED."""
    return judge(
        [JudgedCapture(row.probabilities, row.sha256, [mark["code"] for mark in row.marks or ()]) for row in rows],
        policy=manifest.case_policy,
        labels=manifest.labels,
        benign_label=manifest.benign_label,
        counts=counts,
        identity_conflict=identity_conflict,
    )


def _is_in_conflict(connection: Connection, case_id: int, digests: Sequence[str | None]) -> bool:
    if not _in_several_cases(connection, digests):
        return False
    conflict = select(CONFLICTS.c.capture_id).where(CONFLICTS.c.case_id == case_id).limit(1)
    return connection.execute(conflict).first() is not None
