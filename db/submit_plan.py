"""What a submit will do: which captures are screened, which keep their results, and who has none.

Nothing here writes. `db.submission` writes what is planned.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby

from sqlalchemy import Connection

from contract.archive import FoundCapture, PatientWithoutCaptures
from contract.bundle import Bundle
from contract.names import display_name, look_alike
from db.absent import Absent, absent_patients, codes_of_run
from db.engine import batches
from db.history import History, LatestCase, history_of, last_run, latest_cases, refuse_other_depth
from db.rereading import ReadAgain

AT_A_TIME = 5000
"""About this many captures are in memory at once; patients are not divided."""


@dataclass(frozen=True)
class SubmitRequest:
    """What `screen submit` wants to write. `root` is the real, absolute path of the archive.

    `captures` come patient by patient, a few thousand at a time: there may be millions. They may be gone through again.
    """

    root: bytes
    bundle: Bundle
    captures: Iterable[FoundCapture]
    skipped: Mapping[str, Sequence[str]]
    chunk_size: int
    software_version: str
    everything: bool = False
    verify: bool = False
    """Whether to read every capture whose result would be kept, and compare its digest."""
    reviewers_required: int = 1
    report_at_sign_off: bool = False
    pseudonym_key: str | None = None
    """Fingerprint of the key whose pseudonyms replace patients' names in `captures` and the rest; None: real names."""
    without_captures: Sequence[PatientWithoutCaptures] = ()
    patient_depth: int = 1
    patients_complete: bool = True
    """Whether the walk could list every folder above the patients: then a patient that it did not find is gone."""
    site: str | None = None


@dataclass
class SubmitPlan:
    """What a submit does, in numbers: `cases` with a new, changed or removed capture; their captures to screen
    (`pending`) and those copied from an earlier run (`reused`); captures of all other patients (`unchanged`).

    `latest` has the patients' latest cases before this submit, with whatever bundle. `with_captures` names the patients
    with captures, `patients_unchanged` counts those of them without a case. `absent` are those without captures;
    `absent_is_news` says whether the last run did not know this of one of them. `read_again` has the captures that had
    to be read to know whether they are unchanged.
    """

    read_again: ReadAgain

    cases: int = 0
    pending: int = 0
    reused: int = 0
    unchanged: int = 0
    last_run: int | None = None
    latest: dict[str, LatestCase] = field(default_factory=dict)
    with_captures: set[str] = field(default_factory=set)
    patients_unchanged: int = 0
    absent: list[Absent] = field(default_factory=list)
    absent_is_news: bool = False

    @property
    def submitted(self) -> int:
        return self.pending + self.reused

    @property
    def patients(self) -> int:
        return len(self.with_captures) + len(self.absent)

    @property
    def writes_a_run(self) -> bool:
        return self.cases > 0 or self.absent_is_news

    def count(self, case: "PlannedCase") -> None:
        """Count one more patient with captures."""
        self.with_captures.add(case.patient)
        if case.is_touched:
            self.cases += 1
            self.pending += len(case.pending)
            self.reused += len(case.reused)
        else:
            self.patients_unchanged += 1
            self.unchanged += case.captures


@dataclass(frozen=True)
class PlannedCase:
    """One patient's captures: those to screen, and the ids of earlier rows to copy."""

    patient: str
    pending: list[FoundCapture]
    reused: list[int]
    is_touched: bool
    folder_inode: int | None = None
    look_alike: str | None = None
    """The key of the names that look like that of its folder."""

    @property
    def captures(self) -> int:
        return len(self.pending) + len(self.reused)


def new_plan(connection: Connection, request: SubmitRequest, again: ReadAgain) -> SubmitPlan:
    refuse_other_depth(connection, request.root, request.patient_depth)
    plan = SubmitPlan(again, latest=latest_cases(connection, request.root, request.pseudonym_key))
    if not request.everything:
        plan.last_run = last_run(connection, request.root, request.bundle.digest, request.pseudonym_key)
    return plan


def known_histories(
    connection: Connection, request: SubmitRequest, plan: SubmitPlan, captures: Sequence[FoundCapture]
) -> dict[str, History]:
    """The histories of the patients of these captures, by name."""
    if plan.last_run is None:
        return {}
    of_patient: dict[str, list[FoundCapture]] = {}
    for capture in captures:
        of_patient.setdefault(display_name(capture.patient), []).append(capture)
    return history_of(connection, request.root, request.bundle.digest, request.pseudonym_key, of_patient)


def planned(
    request: SubmitRequest, plan: SubmitPlan, histories_of: Callable[[Sequence[FoundCapture]], dict[str, History]]
) -> Iterator[list[PlannedCase]]:
    """The cases to write, a few thousand captures at a time; `plan` counts them and all other patients with captures.

    A patient gets a new case if a capture is new, changed or removed since the last case with this bundle, or if the
    latest case has withdrawn the result. Unchanged captures are copied, because a result must depend on all captures of
    the patient, and on no others.
    """
    for batch in by_patient(request.captures):
        names = [display_name(captures[0].patient) for captures in batch]
        histories = histories_of(list(chain(*batch)))
        cases = [
            _planned_case(name, captures, histories.get(name, History()), plan.latest.get(name))
            for name, captures in zip(names, batch, strict=True)
        ]
        for case in cases:
            plan.count(case)
        if touched := [case for case in cases if case.is_touched]:
            yield touched


def plan_absent(connection: Connection, request: SubmitRequest, plan: SubmitPlan) -> None:
    """Add the patients without captures to the plan. Those with an earlier result that rests on captures get a case."""
    plan.absent = absent_patients(
        request.without_captures,
        plan.with_captures,
        {name: case.in_force for name, case in plan.latest.items() if case.in_force is not None},
        complete=request.patients_complete,
    )
    codes = {patient.patient: patient.code.value for patient in plan.absent}
    plan.absent_is_news = not codes.items() <= codes_of_run(connection, plan.last_run).items()
    plan.cases += sum(patient.withdraws for patient in plan.absent)


def by_patient(found: Iterable[FoundCapture]) -> Iterator[list[list[FoundCapture]]]:
    """About AT_A_TIME captures after another: those of several patients, a list for each."""
    return batches(
        (list(captures) for _, captures in groupby(found, key=lambda capture: capture.patient)), len, AT_A_TIME
    )


def _planned_case(
    patient: str, captures: list[FoundCapture], history: History, latest: LatestCase | None
) -> PlannedCase:
    is_withdrawn = latest is not None and not latest.captures
    rows = [history.reusable(capture) for capture in captures]
    return PlannedCase(
        patient=patient,
        pending=[capture for capture, row in zip(captures, rows, strict=True) if row is None],
        reused=[row for row in rows if row is not None],
        is_touched=is_withdrawn or not history.is_up_to_date(captures),
        folder_inode=captures[0].folder_inode,
        look_alike=captures[0].look_alike or look_alike(captures[0].patient),
    )
