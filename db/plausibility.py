"""Whether a run as a whole can be believed. If most captures of most patients do not count, something is wrong with the
engine, the microscope or the choice of the bundle, and not with that many patients.
"""

from dataclasses import asdict, dataclass

from sqlalchemy import JSON, Connection, Engine, column, func, select, true

from contract.states import MarkCode
from db.engine import reading
from db.models import Capture, Case
from db.runs import RunRow, named_run

WORDS = {
    MarkCode.NOVEL: "unlike those that the network was trained on",
    MarkCode.OUT_OF_FOCUS: "out of focus",
    MarkCode.EMPTY_FIELD: "almost without cells",
    MarkCode.NO_NUCLEATED_CELL: "without a nucleated cell",
}
"""What captures with a mark are, in plain words; for other marks the code is used."""
LOOK_FIRST = {
    MarkCode.OUT_OF_FOCUS: "check the microscope's focus",
    MarkCode.EMPTY_FIELD: "check where on the slide the captures were taken",
    MarkCode.NO_NUCLEATED_CELL: "check where on the slide the captures were taken",
}
"""What to do first: a bundle must not be adapted to bad captures."""
KNOW_THEM = (
    "compare the engine with float32 by `screen bundle verify BUNDLE --captures ARCHIVE`: if they differ, screen again "
    "with `SCREEN_PRECISION=float32` and `--all`; if they agree, the microscope or the laboratory is new to the "
    "bundle: `screen adapt BUNDLE ARCHIVE`"
)
MEASURE_THEM = "the bundle's reference is of another microscope: `screen reference BUNDLE DATA OUT` computes it again"


@dataclass(frozen=True)
class MarkShare:
    """How many captures of the affected patients have an excluding mark, and for how many of these patients it is the
    reason: more than half of their screened captures have it.
    """

    mark: MarkCode
    captures: int
    cases: int


@dataclass(frozen=True)
class Implausibility:
    """`cases` finished cases have a screened capture; `affected` of them have more than half of these excluded,
    in sum `excluded` of `screened`. `marks` are their excluding marks, the reason in most cases first; a capture may
    have several. `so_far`: other cases are still open.
    """

    run_id: int
    cases: int
    affected: int
    screened: int
    excluded: int
    marks: tuple[MarkShare, ...]
    so_far: bool

    @property
    def finding(self) -> str:
        """What is wrong, with figures: a sentence without its full stop."""
        chief = self.marks[0]
        patients = f"{self.affected} of {self.cases} patient{'s' if self.cases > 1 else ''}"
        if chief.cases == self.affected:
            because = "because"
        elif chief.cases:
            because = f"in {chief.cases} of these patients because"
        else:
            because = "for several reasons, above all because"
        shares = ", ".join(f"{share.captures} {share.mark.replace('_', ' ')}" for share in self.marks)
        return (
            f"Do not rely on run {self.run_id}: most captures of {patients}{' finished so far' if self.so_far else ''} "
            f"do not count, {because} they are {WORDS.get(chief.mark, chief.mark.replace('_', ' '))} (of their "
            f"{self.screened} screened captures: {shares})"
        )

    @property
    def next_step(self) -> str:
        """What to do, by the marks that are the reason in most cases; commands are between backticks."""
        reasons = [share.mark for share in self.marks if 2 * share.cases > self.affected] or [self.marks[0].mark]
        checks = [LOOK_FIRST.get(mark, "look at the captures") for mark in reasons if mark is not MarkCode.NOVEL]
        then = KNOW_THEM if MarkCode.NOVEL in reasons else MEASURE_THEM
        return "; if the captures are good, ".join([" and ".join(dict.fromkeys(checks)), then] if checks else [then])

    @property
    def sentence(self) -> str:
        return f"{self.finding}; {self.next_step}"

    def record(self) -> dict[str, object]:
        """The sentence and its figures, for JSON."""
        return {"sentence": self.sentence, **asdict(self)}


_FINISHED = Case.aggregated_at.is_not(None)
"""Does not use the state: without statistics SQLite would use its index, and read the finished cases of all runs."""
_MOSTLY_EXCLUDED = 2 * Case.excluded > Case.screened


def implausibility(engine: Engine, run_id: int) -> Implausibility | None:
    """Why a run cannot be believed, or None. It cannot if more than half of its finished cases have more than half of
    their screened captures excluded; cases without a screened capture do not count here.

    Only for such a run the database reads captures. Raises NoSuchRun.
    """
    with reading(engine) as connection:
        return implausibility_of(connection, named_run(connection, run_id))


def implausibility_of(connection: Connection, run: RunRow) -> Implausibility | None:
    """The same, in a transaction of the caller."""
    counts = connection.execute(
        select(
            func.count().label("finished"),
            func.count().filter(Case.screened > 0).label("cases"),
            func.count().filter(_MOSTLY_EXCLUDED).label("affected"),
            func.sum(Case.screened).filter(_MOSTLY_EXCLUDED).label("screened"),
            func.sum(Case.excluded).filter(_MOSTLY_EXCLUDED).label("excluded"),
        ).where(Case.run_id == run.id, _FINISHED)
    ).one()
    if 2 * counts.affected <= counts.cases:
        return None
    excluding = run.manifest.case_policy.exclude
    marks = _shares(connection, run.id, excluding)
    return Implausibility(
        run.id, counts.cases, counts.affected, counts.screened, counts.excluded, marks, run.cases > counts.finished
    )


def _shares(connection: Connection, run_id: int, excluding: tuple[MarkCode, ...]) -> tuple[MarkShare, ...]:
    """The excluding marks of the run's mostly excluded cases."""
    unnest = func.json_each if connection.dialect.name == "sqlite" else func.json_array_elements
    mark = unnest(Capture.marks).table_valued(column("value", JSON), name="mark")
    code = mark.c.value["code"].as_string()
    of_case = (
        select(code.label("code"), func.count().label("captures"), Case.screened)
        .select_from(Capture)
        .join(Case, Case.id == Capture.case_id)
        .join(mark, true())
        .where(Case.run_id == run_id, _FINISHED, _MOSTLY_EXCLUDED)
        .where(Capture.run_id == run_id, code.in_(excluding))
        .group_by(Capture.case_id, Case.screened, code)
        .subquery()
    )
    shares = connection.execute(
        select(
            of_case.c.code,
            func.sum(of_case.c.captures).label("captures"),
            func.count().filter(2 * of_case.c.captures > of_case.c.screened).label("cases"),
        ).group_by(of_case.c.code)
    )
    mark_shares = [MarkShare(MarkCode(row.code), int(row.captures), row.cases) for row in shares]
    return tuple(sorted(mark_shares, key=lambda share: (-share.cases, -share.captures, excluding.index(share.mark))))
