"""A case's result from the rows of its captures: written when the last one has ended, corrected when that is needed.

The transaction that writes the last capture of a case aggregates the case. If two workers finish a case's last two
chunks at the same instant, both lock the case row first and recount from the rows, so the second one sees what the
first one wrote. The condition of the UPDATE makes sure that there is only one result.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select, update
from sqlalchemy.orm import aliased

from contract.bundle import Manifest
from contract.case_policy import CasePolicy
from contract.case_rule import (
    IDENTITY_CONFLICT,
    MAY_BE_MIXED_UP,
    CaseCounts,
    CaseResult,
    JudgedCapture,
    judge,
    judge_emptied,
)
from contract.settled import IDENTITY_SETTLED, beside_settlement
from contract.signed import SignedResult, beside_signed
from contract.states import CaptureState, CaseState, EventKind
from db.absent import emptied
from db.audit import WORKER, note
from db.clock import db_now
from db.engine import AnyRow, batches, slices
from db.look_alikes import LookAlike, changed_look_alikes, look_alikes, settled_names
from db.many import update_many
from db.mix_ups import (
    is_in_conflict,
    one_at_a_time,
    perhaps_freed,
    perhaps_touching_others,
    says_conflict,
    silent_others,
    under_several_patients,
)
from db.models import BundleRow, Capture, Case, ReportQueue, Run
from db.report_queue import queue_result, queue_results
from db.settlements import settlement_of
from db.superseding import signed_before, supersede

AT_ONCE = 5000
"""About this many captures are judged at once; a case is not divided."""
JUDGED = (Capture.probabilities, Capture.sha256, Capture.marks, Capture.nucleated_cells)
"""The columns of a screened capture that a result is made of."""
_Captures = Mapping[int, Sequence[AnyRow]]
"""Case -> its screened captures: rows with the columns JUDGED."""


def lock_cases(connection: Connection, chunk_id: int) -> list[int]:
    """Lock the chunk's cases in the order of their ids, so that two workers cannot wait for each other."""
    in_chunk = select(Capture.case_id).where(Capture.chunk_id == chunk_id)
    return list(
        connection.execute(select(Case.id).where(Case.id.in_(in_chunk)).order_by(Case.id).with_for_update()).scalars()
    )


def aggregate_finished_cases(connection: Connection, case_ids: Sequence[int]) -> None:
    """Write the result of each of these cases that has no pending capture. They are of one run, and the caller holds
    their row locks.

    Cases that touch nothing of another patient are finished together, because a chunk may hold hundreds of patients.
    What is written is the same as if each was finished alone, in the order of their ids.
    """
    if not case_ids:
        return
    one_at_a_time(connection)
    unfinished = select(Capture.case_id).where(Capture.case_id.in_(case_ids), Capture.state == CaptureState.PENDING)
    finished = connection.execute(
        select(Case.id, Case.submitted, Run.bundle_digest, Run.cancelled_at)
        .join(Run, Run.id == Case.run_id)
        .where(Case.id.in_(case_ids), Case.state == CaseState.OPEN, Case.id.not_in(unfinished))
        .order_by(Case.id)
    ).all()
    if not finished:
        return
    manifest = _manifest(connection, finished[0].bundle_digest)
    cancelled = finished[0].cancelled_at is not None
    corrected = False
    to_judge = [ToJudge(case.id, case.submitted, manifest) for case in finished]
    for cases in batches(to_judge, lambda case: case.submitted, AT_ONCE):
        ids = [case.id for case in cases]
        captures = _screened_captures(connection, ids)
        alone = _to_finish_alone(connection, ids, captures)
        for needs_care, group in groupby(cases, key=lambda case: case.id in alone):
            together = list(group)
            # What a correction has changed, `alone` does not know.
            if needs_care or corrected:
                for case in together:
                    corrected |= _finish_alone(connection, case, captures, cancelled=cancelled)
            else:
                _finish(connection, together, captures, cancelled=cancelled, shared=())


class ToJudge(NamedTuple):
    """A case to apply the rule of this manifest to."""

    id: int
    submitted: int
    manifest: Manifest


def _to_finish_alone(connection: Connection, case_ids: Sequence[int], captures: _Captures) -> set[int]:
    """Those of these cases whose result may change other patients' cases or depend on them, and those that were
    reported before or have a newer case with a result already.
    """
    newer = aliased(Case)
    is_replaced = select(newer.id).where(
        newer.patient_id == Case.patient_id, newer.id > Case.id, newer.verdict.is_not(None)
    )
    is_reported = select(ReportQueue.id).where(ReportQueue.case_id == Case.id)
    alone = perhaps_touching_others(connection, case_ids)
    for ids in slices(case_ids, 500):
        known = select(Case.id).where(Case.id.in_(ids), is_reported.exists() | is_replaced.exists())
        alone.update(connection.execute(known).scalars())
    shared = set(under_several_patients(connection, _digests(captures)))
    alone.update(case_id for case_id, rows in captures.items() if any(row.sha256 in shared for row in rows))
    return alone


def _finish_alone(connection: Connection, case: ToJudge, captures: _Captures, *, cancelled: bool) -> bool:
    """Write the result of a case; whether results of other patients were judged again for it."""
    columns = _finish(connection, [case], captures, cancelled=cancelled)
    freed = perhaps_freed(connection, case.id)
    judge_again(connection, freed, in_conflict=True)
    if not shares_captures(columns[case.id]):
        return bool(freed)
    # Its captures may be copies, which no worker wrote.
    judge_again(connection, silent_others(connection, case.id), in_conflict=False)
    return True


def _finish(
    connection: Connection, cases: Sequence[ToJudge], captures: _Captures, *, cancelled: bool,
    shared: Collection[str] | None = None,
) -> dict[int, dict[str, Any]]:  # fmt: skip
    """Write the results of these cases, and return their columns. `captures` and `shared` as for `case_results`."""
    ids = [case.id for case in cases]
    # First: it waits for reviewers who sign an earlier case at this moment, and the result says what they signed.
    signed = supersede(connection, ids, cancelled=cancelled)
    counts = case_counts(connection, cases)
    columns = _result_columns(connection, cases, counts, captures=captures, signed=signed, shared=shared)
    rows = [
        {"id": case_id, "screened": counts[case_id].screened, "rejected": counts[case_id].rejected,
         "quarantined": counts[case_id].quarantined, **columns[case_id]}
        for case_id in ids
    ]  # fmt: skip
    again = {"state": CaseState.AGGREGATED, "aggregated_at": db_now(), "result_version": Case.result_version + 1}
    written = update_many(connection, Case, rows, Case.state == CaseState.OPEN, **again)
    if written != len(ids):
        raise AssertionError(f"{len(ids) - written} of {len(ids)} cases have a result already, in spite of their locks")
    queue_results(connection, ids)
    return columns


def _manifest(connection: Connection, digest: str) -> Manifest:
    stored = connection.execute(select(BundleRow.manifest).where(BundleRow.digest == digest)).scalar_one()
    return Manifest.model_validate(stored)


def with_policy(manifest: Manifest, policy: dict[str, Any] | None) -> Manifest:
    """The manifest, with the policy that a case was recomputed with if there is one."""
    if policy is None:
        return manifest
    return manifest.model_copy(update={"case_policy": CasePolicy.model_validate(policy)})


def judge_again(connection: Connection, case_ids: Sequence[int], *, in_conflict: bool) -> None:
    """Judge the finished ones of these cases whose result says `in_conflict`, and correct those where that changed."""
    for case, columns in _judged(connection, case_ids, says_conflict() if in_conflict else ~says_conflict()):
        if any(reason["code"] == IDENTITY_CONFLICT.code for reason in columns["reasons"]) != in_conflict:
            write_identity(connection, case.run_id, case.id, columns, actor=WORKER)


def judge_look_alikes(connection: Connection, root: bytes, *, actor: str) -> None:
    """Correct the results of an archive that do not say what is true of the names of its folders now."""
    if not changed_look_alikes(connection, root):
        return
    one_at_a_time(connection)  # and look again: somebody else may have corrected them meanwhile
    for case, columns in _judged(connection, changed_look_alikes(connection, root)):
        write_identity(connection, case.run_id, case.id, columns, actor=actor)


def _judged(
    connection: Connection, case_ids: Sequence[int], *conditions: ColumnElement[bool]
) -> Iterator[tuple[AnyRow, dict[str, Any]]]:
    """Those of these cases that are finished and fulfil the conditions, locked, each with the columns of its result as
    its rows are now.
    """
    for ids in slices(case_ids, 500):
        cases = connection.execute(
            select(Case.id, Case.run_id, Case.submitted, Case.case_policy, Run.bundle_digest)
            .join(Run, Run.id == Case.run_id)
            .where(Case.id.in_(ids), Case.state == CaseState.AGGREGATED, *conditions)
            .order_by(Case.id)
            .with_for_update(of=Case)
        ).all()
        for case in cases:
            manifest = with_policy(_manifest(connection, case.bundle_digest), case.case_policy)
            yield case, result_of(connection, ToJudge(case.id, case.submitted, manifest))


def write_identity(
    connection: Connection, run_id: int, case_id: int, columns: dict[str, Any], *, actor: str, **detail: int
) -> None:
    """Correct the result of a case that is in conflict now, or no longer: also in the queue, and in the audit."""
    columns["result_version"] = Case.result_version + 1
    connection.execute(update(Case).where(Case.id == case_id).values(columns))
    queue_result(connection, case_id)
    note(
        connection, EventKind.IDENTITY_CONFLICT, actor=actor, run_id=run_id, case_id=case_id,
        detail={"conflict": columns["identity_conflict"], **detail},
    )  # fmt: skip


def shares_captures(columns: dict[str, Any]) -> bool:
    """Whether a result says that captures lie under another patient too, settled for its own patient or not."""
    return any(reason["code"] in (IDENTITY_CONFLICT.code, IDENTITY_SETTLED) for reason in columns["reasons"])


def result_of(connection: Connection, case: ToJudge) -> dict[str, Any]:
    """The columns of one case's result, counted and judged from its rows as they are now."""
    return _result_columns(connection, [case], case_counts(connection, [case]))[case.id]


def _result_columns(
    connection: Connection, cases: Sequence[ToJudge], counts: Mapping[int, CaseCounts], **known: Any
) -> dict[int, dict[str, Any]]:
    """The columns of each case's result, by case. The arguments are those of `case_results`."""
    columns = {}
    for case, result in zip(cases, case_results(connection, cases, counts, **known), strict=True):
        policy = case.manifest.case_policy
        columns[case.id] = {
            "case_rule": f"{policy.rule}/{policy.version}",
            "identity_conflict": any(mark in result.reasons for mark in MAY_BE_MIXED_UP),
            "verdict": result.verdict,
            "score": result.score,
            "score_low": result.score_low,
            "score_high": result.score_high,
            "subtype": result.subtype,
            "subtype_margin": result.subtype_margin,
            "priority": result.priority,
            "excluded": result.excluded,
            "novel": result.novel,
            "counting": result.counting,
            "nucleated_cells": result.nucleated_cells,
            "cells_at_least": result.cells_at_least,
            "reasons": [asdict(reason) for reason in result.reasons],
        }
    return columns


def _screened_captures(connection: Connection, case_ids: Sequence[int]) -> _Captures:
    captures: dict[int, list[AnyRow]] = defaultdict(list)
    for ids in slices(case_ids, 500):
        screened = connection.execute(
            select(Capture.case_id, *JUDGED)
            .where(Capture.case_id.in_(ids), Capture.state == CaptureState.SCREENED)
            .order_by(Capture.id)
        )
        for row in screened:
            captures[row.case_id].append(row)
    return captures


def _digests(captures: _Captures) -> list[str | None]:
    return [row.sha256 for rows in captures.values() for row in rows]


def case_counts(connection: Connection, cases: Sequence[ToJudge]) -> dict[int, CaseCounts]:
    """Count from the rows how the captures of each case ended."""
    by_state: dict[int, Counter[str]] = defaultdict(Counter)
    for ids in slices([case.id for case in cases], 500):
        rows = connection.execute(
            select(Capture.case_id, Capture.state, func.count())
            .where(Capture.case_id.in_(ids))
            .group_by(Capture.case_id, Capture.state)
        )
        for case_id, state, captures in rows:
            by_state[case_id][state] = captures
    return {
        case.id: CaseCounts(
            case.submitted,
            by_state[case.id][CaptureState.SCREENED],
            by_state[case.id][CaptureState.REJECTED],
            by_state[case.id][CaptureState.QUARANTINED],
        )
        for case in cases
    }


def case_results(
    connection: Connection, cases: Sequence[ToJudge], counts: Mapping[int, CaseCounts], *,
    captures: _Captures | None = None, signed: Mapping[int, SignedResult] | None = None,
    shared: Collection[str] | None = None,
) -> Iterator[CaseResult]:  # fmt: skip
    """Apply each case's policy to its rows; beside what was signed for the patient before. In the order of `cases`.

    `counts` are those of `case_counts`. Who knows them already gives the cases' screened `captures` and what was
    `signed` before, both by case, and the digests that are `shared` by several patients.

    The same rows and opinions always give the same result. A case without captures, which only a submit makes,
    withdraws an earlier result and says itself whether that was signed.
    """
    ids = [case.id for case in cases]
    if captures is None:
        captures = _screened_captures(connection, ids)
    if shared is None:
        shared = frozenset(under_several_patients(connection, _digests({one: captures.get(one, ()) for one in ids})))
    if signed is None:
        signed = signed_before(connection, ids)
    alike: dict[int, list[LookAlike]] = defaultdict(list)
    for pair in look_alikes(connection, ids):
        alike[pair.case_id].append(pair)
    for case in cases:
        if not case.submitted:
            yield judge_emptied(emptied(connection, case.id))
            continue
        rows = captures.get(case.id, ())
        is_shared = any(row.sha256 in shared for row in rows)
        conflict = is_shared and is_in_conflict(connection, case.id)
        looks_alike = any(not pair.settled for pair in alike[case.id])
        result = judge_rows(rows, counts[case.id], case.manifest, identity_conflict=conflict, look_alike=looks_alike)
        if (settlement := settled_names(connection, alike[case.id])) is not None:
            result = beside_settlement(result, settlement)
        if is_shared and (settlement := settlement_of(connection, case.id)) is not None:
            result = beside_settlement(result, settlement)
        yield beside_signed(result, signed[case.id]) if case.id in signed else result


def judge_rows(
    rows: Sequence[AnyRow], counts: CaseCounts, manifest: Manifest, *, identity_conflict: bool = False,
    look_alike: bool = False,
) -> CaseResult:  # fmt: skip
    """Apply the manifest's case policy to the screened captures of one case: rows with the columns JUDGED."""
    return judge(
        [
            JudgedCapture(
                row.probabilities, row.sha256, [mark["code"] for mark in row.marks or ()], row.nucleated_cells
            )
            for row in rows
        ],
        policy=manifest.case_policy,
        labels=manifest.labels,
        benign_label=manifest.benign_label,
        counts=counts,
        identity_conflict=identity_conflict,
        look_alike=look_alike,
    )
