"""Two runs of one archive side by side: which results changed, by which captures, and how far they agree."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.orm import aliased

from contract.errors import NoSuchRun, UsageError
from contract.states import CaptureState, CaseState
from db.engine import reading
from db.models import Capture, Case, Patient, Run

BEHIND = 3
"""Captures named for each case that changed: those whose P(ALL) moved most."""
SAME = 1e-6
"""Scores and probabilities nearer than this are the same."""


@dataclass(frozen=True)
class ChangedCase:
    """A patient whose verdict or subtype is another one in the second run, and the captures that moved most.

    Without captures it is the case rule or its thresholds that differ.
    """

    patient: str
    before: dict[str, Any]
    after: dict[str, Any]
    captures: list[dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """`agreement` counts patients by (verdict in the first run, verdict in the second), of those in both.

    `kappa` is Cohen's for the verdicts; None where it is not defined, both runs giving everybody the same one.
    """

    patients: int
    only_first: int
    only_second: int
    agreement: dict[tuple[str, str], int]
    kappa: float | None
    changed: list[ChangedCase]


def compare_runs(engine: Engine, first: int, second: int) -> Comparison:
    """Compare finished cases of two runs of the same archive, patient by patient.

    Raises NoSuchRun, and UsageError where the archives differ.
    """
    with reading(engine) as connection:
        _same_archive(connection, first, second)
        one, other = (_results(connection, run) for run in (first, second))
        both = sorted(one.keys() & other.keys(), key=lambda patient: (-other[patient].priority, patient))
        agreement = Counter((str(one[patient].verdict), str(other[patient].verdict)) for patient in both)
        changed = [
            ChangedCase(
                one[patient].external_id, _shown(one[patient]), _shown(other[patient]),
                _behind(connection, one[patient].id, other[patient].id),
            )
            for patient in both
            if (one[patient].verdict, one[patient].subtype) != (other[patient].verdict, other[patient].subtype)
        ]  # fmt: skip
        return Comparison(
            len(both), len(one.keys() - other.keys()), len(other.keys() - one.keys()), dict(agreement),
            cohens_kappa(agreement), changed,
        )  # fmt: skip


def cohens_kappa(agreement: dict[tuple[str, str], int]) -> float | None:
    """(observed - expected agreement) / (1 - expected), of two raters of the same things (Cohen 1960).

    None where it is not defined: nothing was rated, or both gave everything the same rating.
    """
    total = sum(agreement.values())
    if not total:
        return None
    observed = sum(count for (one, other), count in agreement.items() if one == other) / total
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for (one, other), count in agreement.items():
        first[one] += count
        second[other] += count
    expected = sum(first[verdict] * second[verdict] for verdict in first) / total**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def same_value(one: Any, other: Any) -> bool:
    """Whether two stored values are the same; numbers, and lists of numbers, may differ by what rounding does."""
    if isinstance(one, float | list) and isinstance(other, float | list):
        return bool(np.abs(np.subtract(one, other)).max() <= SAME)
    return bool(one == other)


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


def _results(connection: Connection, run: int) -> dict[int, Any]:
    rows = connection.execute(
        select(Case.id, Case.patient_id, Patient.external_id, Case.verdict, Case.subtype, Case.score, Case.priority)
        .join(Patient, Patient.id == Case.patient_id)
        .where(Case.run_id == run, Case.state == CaseState.AGGREGATED)
    )
    return {row.patient_id: row for row in rows}


def _shown(row: Any) -> dict[str, Any]:
    return {"case_id": row.id, "verdict": row.verdict, "subtype": row.subtype, "score": row.score}


def _behind(connection: Connection, first_case: int, second_case: int) -> list[dict[str, Any]]:
    """The captures of both cases whose P(ALL) differs most; what ended differently comes before all others."""
    one, other = aliased(Capture), aliased(Capture)
    rows: Sequence[Any] = connection.execute(
        select(
            one.path_text, one.state, one.label, one.p_all,
            other.state.label("state_after"), other.label.label("label_after"), other.p_all.label("p_all_after"),
        )
        .join(other, (other.path == one.path) & (other.case_id == second_case))
        .where(one.case_id == first_case)
        .where((one.state != other.state) | (func.abs(other.p_all - one.p_all) > SAME))
        .order_by(
            (one.state == other.state).asc(), func.abs(other.p_all - one.p_all).desc(), one.path_text
        )
        .limit(BEHIND)
    ).all()  # fmt: skip
    return [
        {
            "path": row.path_text,
            "before": row.label if row.state == CaptureState.SCREENED else row.state, "p_all_before": row.p_all,
            "after": row.label_after if row.state_after == CaptureState.SCREENED else row.state_after,
            "p_all_after": row.p_all_after,
        }
        for row in rows
    ]  # fmt: skip
