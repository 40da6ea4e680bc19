"""Two runs of one archive side by side: which results changed, by which captures, and how far they agree."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.orm import aliased

from contract.errors import NoSuchRun, UsageError
from contract.states import CaptureState, CaseState, Verdict
from db.engine import AnyRow, reading
from db.models import Capture, Case, Patient, Run

BEHIND = 3
"""Number of captures named for each case that changed: those whose P(ALL) moved most."""
SAME = 1e-6
"""Scores and probabilities that differ by at most this are equal: databases keep 64 bits, engines compute in 32."""


@dataclass(frozen=True)
class ComparedResult:
    """A patient's result in one of the two runs."""

    case_id: int
    verdict: Verdict
    subtype: str | None
    score: float | None


@dataclass(frozen=True)
class MovedCapture:
    """A capture that has another P(ALL) in the second run, or ended in another way.

    `before` and `after` are its label, or its state if it was not screened.
    """

    path: str
    before: str
    p_all_before: float | None
    after: str
    p_all_after: float | None


@dataclass(frozen=True)
class ChangedCase:
    """A patient whose verdict or subtype is different in the second run, and the captures that moved most.

    If there are no such captures, the case rule or its thresholds differ.
    """

    patient: str
    before: ComparedResult
    after: ComparedResult
    captures: list[MovedCapture]


@dataclass(frozen=True)
class Comparison:
    """`agreement` counts the patients of both runs by (verdict in the first run, verdict in the second).

    `kappa` is Cohen's for the verdicts; None if it is not defined, for example if all patients got the same one twice.
    """

    patients: int
    only_first: int
    only_second: int
    agreement: dict[tuple[str, str], int]
    kappa: float | None
    changed: list[ChangedCase]


def compare_runs(engine: Engine, first: int, second: int) -> Comparison:
    """Compare finished cases of two runs of the same archive, patient by patient.

    Raises NoSuchRun, and UsageError if the archives differ.
    """
    with reading(engine) as connection:
        _same_archive(connection, first, second)
        before, after = (_results(connection, run) for run in (first, second))
        both = sorted(before.keys() & after.keys(), key=lambda patient: (-after[patient].priority, patient))
        agreement = Counter((str(before[patient].verdict), str(after[patient].verdict)) for patient in both)
        changed = [
            ChangedCase(
                before[patient].external_id, _shown(before[patient]), _shown(after[patient]),
                _behind(connection, before[patient].id, after[patient].id),
            )
            for patient in both
            if (before[patient].verdict, before[patient].subtype) != (after[patient].verdict, after[patient].subtype)
        ]  # fmt: skip
        return Comparison(
            len(both), len(before.keys() - after.keys()), len(after.keys() - before.keys()), dict(agreement),
            cohens_kappa(agreement), changed,
        )  # fmt: skip


def cohens_kappa(agreement: dict[tuple[str, str], int]) -> float | None:
    """(observed - expected agreement) / (1 - expected), for two raters of the same things (Cohen 1960).

    None if it is not defined: nothing was rated, or both raters gave everything the same rating.
    """
    total = sum(agreement.values())
    if not total:
        return None
    observed = sum(count for (verdict, second_verdict), count in agreement.items() if verdict == second_verdict) / total
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for (first_verdict, second_verdict), count in agreement.items():
        first[first_verdict] += count
        second[second_verdict] += count
    expected = sum(first[verdict] * second[verdict] for verdict in first) / total**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def same_value(first: Any, second: Any) -> bool:
    """Whether two stored values are the same; numbers, and lists of numbers, may differ by rounding (SAME)."""
    if isinstance(first, float | list) and isinstance(second, float | list):
        return bool(np.abs(np.subtract(first, second)).max() <= SAME)
    return bool(first == second)


def _same_archive(connection: Connection, first: int, second: int) -> None:
    roots = dict(connection.execute(select(Run.id, Run.root_text).where(Run.id.in_((first, second)))).all())
    for run in (first, second):
        if run not in roots:
            raise NoSuchRun(run)
    if roots[first] != roots[second]:
        raise UsageError(
            f"run {first} is of {roots[first]} and run {second} of {roots[second]}; only runs of one archive can be "
            "compared"
        )


def _results(connection: Connection, run: int) -> dict[int, AnyRow]:
    rows = connection.execute(
        select(Case.id, Case.patient_id, Patient.external_id, Case.verdict, Case.subtype, Case.score, Case.priority)
        .join(Patient, Patient.id == Case.patient_id)
        .where(Case.run_id == run, Case.state == CaseState.AGGREGATED)
    )
    return {row.patient_id: row for row in rows}


def _shown(row: AnyRow) -> ComparedResult:
    return ComparedResult(row.id, Verdict(row.verdict), row.subtype, row.score)


def _behind(connection: Connection, first_case: int, second_case: int) -> list[MovedCapture]:
    """The captures of both cases whose P(ALL) differs most; captures that ended differently come first."""
    before, after = aliased(Capture), aliased(Capture)
    rows = connection.execute(
        select(
            before.path_text, before.state, before.label, before.p_all,
            after.state.label("state_after"), after.label.label("label_after"), after.p_all.label("p_all_after"),
        )
        .join(after, (after.path == before.path) & (after.case_id == second_case))
        .where(before.case_id == first_case)
        .where((before.state != after.state) | (func.abs(after.p_all - before.p_all) > SAME))
        .order_by(
            (before.state == after.state).asc(), func.abs(after.p_all - before.p_all).desc(), before.path_text
        )
        .limit(BEHIND)
    ).all()  # fmt: skip
    return [
        MovedCapture(
            row.path_text,
            row.label if row.state == CaptureState.SCREENED else row.state, row.p_all,
            row.label_after if row.state_after == CaptureState.SCREENED else row.state_after, row.p_all_after,
        )
        for row in rows
    ]  # fmt: skip
