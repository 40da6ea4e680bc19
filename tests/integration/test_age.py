"""Night after night of one archive: a night reads what is new and the last case, not all nights before it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, select, text, true, update

from contract.archive import FoundCapture
from contract.bundle import Bundle
from contract.states import CaptureState, EventKind, RejectCode
from db import aggregation, schema
from db.control import cancel, retry
from db.engine import migrating, open_engine, reading, writing
from db.models import Capture, Case, Event, ReportQueue, Run
from db.purge import purge
from db.results import finish_chunk
from db.reused import ORIGINAL, of_original
from db.submission import SubmitPlan, plan_submit, submit
from tests.support.earlier import RUN, write_at
from tests.support.runs import claimed, digest, found, outcome, request, without

MAP = b"\x01\x02" * 4
FILES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
CAPTURES = 40


def screen(database: Engine, bundle: Bundle, files: list[FoundCapture], **more: object) -> int:
    """A run of these captures, finished; each capture has a map and measures."""
    run = submit(database, request(bundle, files, chunk_size=64, **more))
    for chunk_id in run.chunk_ids:
        lease = claimed(database, chunk_id)
        ended = outcome(lease)
        of_worker = [replace(one, cam=MAP, quality={"sharpness": 1.5}) for one in ended.screened]
        finish_chunk(database, lease, replace(ended, screened=of_worker))
    assert run.run_id is not None
    return run.run_id


def nights(database: Engine, bundle: Bundle, first: int, last: int) -> list[FoundCapture]:
    """In each night one of forty captures was changed; returns the captures of the next night, with a new one too."""
    for night in range(first, last):
        screen(database, bundle, changed(night))
    return [*changed(last), *found("P1", "new.jpg")]


def changed(night: int) -> list[FoundCapture]:
    ages = {f"{number:02d}.jpg": night - (night - number) % CAPTURES for number in range(CAPTURES)}
    return [one for name, age in ages.items() for one in found("P1", name, modified=1000 + age)]


@contextmanager
def steps_of_sqlite(database: Engine) -> Iterator[Callable[[], int]]:
    """Counts the steps of SQLite's virtual machine, ten at a time: what it reads, whatever the machine's speed."""
    steps = [0]

    def count() -> None:
        steps[0] += 10

    @event.listens_for(database, "begin")
    def _count(connection: object) -> None:
        connection.connection.driver_connection.set_progress_handler(count, 10)  # type: ignore[attr-defined]

    yield lambda: steps[0]
    event.remove(database, "begin", _count)


def test_a_night_costs_as_much_after_forty_nights_as_after_five(tmp_path: Path, bundle: Bundle) -> None:
    database = open_engine(f"sqlite:///{tmp_path / 'nights.db'}")
    schema.upgrade(database)
    costs = []
    for first, last in ((0, 5), (5, 40)):
        tonight = nights(database, bundle, first, last)
        with steps_of_sqlite(database) as steps:
            plan_submit(database, request(bundle, tonight))
            planned = steps()
            screen(database, bundle, changed(last), everything=True)
            costs.append((planned, steps() - planned))
    (plan_young, finish_young), (plan_old, finish_old) = costs
    assert plan_old < 3 * plan_young, "of earlier nights the rows of run and case are read, and no capture"
    assert finish_old < 1.5 * finish_young
    database.dispose()


def reject(database: Engine, run: int, path: bytes, code: RejectCode) -> None:
    with writing(database) as connection:
        connection.execute(
            update(Capture)
            .where(Capture.run_id == run, Capture.path == path)
            .values(state=CaptureState.REJECTED, reject_code=code, probabilities=None)
        )


def missing_when_all_were_screened_again(database: Engine, bundle: Bundle) -> None:
    screen(database, bundle, found("P1", *FILES))
    reject(database, screen(database, bundle, found("P1", *FILES), everything=True), b"P1/a.jpg", RejectCode.MISSING)


def damaged_when_all_were_screened_again(database: Engine, bundle: Bundle) -> None:
    screen(database, bundle, found("P1", *FILES))
    reject(database, screen(database, bundle, found("P1", *FILES), everything=True), b"P1/a.jpg", RejectCode.TRUNCATED)


def missing_from_the_first(database: Engine, bundle: Bundle) -> None:
    reject(database, screen(database, bundle, found("P1", *FILES)), b"P1/a.jpg", RejectCode.MISSING)
    screen(database, bundle, found("P1", *FILES, "e.jpg")[1:])


def away_for_a_night(database: Engine, bundle: Bundle) -> None:
    screen(database, bundle, found("P1", *FILES))
    screen(database, bundle, found("P1", *FILES)[1:])


def away_and_its_first_run_cancelled(database: Engine, bundle: Bundle) -> None:
    first = screen(database, bundle, found("P1", *FILES))
    screen(database, bundle, found("P1", *FILES, "e.jpg"))
    cancel(database, first, actor="anna")
    screen(database, bundle, found("P1", *FILES)[1:])


def away_and_all_its_runs_cancelled(database: Engine, bundle: Bundle) -> None:
    cancel(database, screen(database, bundle, found("P1", *FILES)), actor="anna")
    screen(database, bundle, found("P1", *FILES)[1:])


def changed_for_a_night(database: Engine, bundle: Bundle) -> None:
    screen(database, bundle, found("P1", *FILES))
    screen(database, bundle, [*found("P1", "a.jpg", modified=9), *found("P1", *FILES)[1:]])


def all_gone_for_a_night(database: Engine, bundle: Bundle) -> None:
    screen(database, bundle, found("P1", *FILES))
    submit(database, request(bundle, [], absent=[without("P1")]))


@pytest.mark.parametrize(
    ("before", "reused"),
    [
        (missing_when_all_were_screened_again, 4), (damaged_when_all_were_screened_again, None),
        (missing_from_the_first, 3), (away_for_a_night, 4), (away_and_its_first_run_cancelled, 4),
        (away_and_all_its_runs_cancelled, 3), (changed_for_a_night, 3), (all_gone_for_a_night, 4),
    ],
)  # fmt: skip
def test_the_latest_row_that_says_something_about_a_file_is_kept(
    database: Engine, bundle: Bundle, before: Callable[[Engine, Bundle], None], reused: int | None
) -> None:
    """None: nothing is new."""
    before(database, bundle)
    plan: SubmitPlan = plan_submit(database, request(bundle, found("P1", *FILES)))
    assert (plan.cases, plan.reused, plan.pending) == ((0, 0, 0) if reused is None else (1, reused, 4 - reused))


def copies(database: Engine) -> dict[tuple[int, str], tuple[int | None, bytes | None, object]]:
    """By run and name: the run of the original, the map and the measures of the row itself."""
    with reading(database) as connection:
        run_of = dict(connection.execute(select(Capture.id, Capture.run_id)).all())
        rows = connection.execute(select(Capture).order_by(Capture.id)).all()
        return {
            (row.run_id, row.path_text[3:]): (run_of.get(row.reused_from), row.cam, row.quality) for row in rows
        }  # fmt: skip


def maps_of(database: Engine, run: int) -> set[bytes | None]:
    maps = select(of_original("cam")).outerjoin(ORIGINAL, ORIGINAL.id == Capture.reused_from)
    with reading(database) as connection:
        return set(connection.execute(maps.where(Capture.run_id == run)).scalars())


def test_a_copy_names_what_was_screened_and_a_purge_hands_over(database: Engine, bundle: Bundle) -> None:
    measures = {"sharpness": 1.5}
    runs = [screen(database, bundle, found("P1", *"abcd"[:last])) for last in (1, 2, 3)]
    own, copy = (None, MAP, measures), (1, None, None)
    assert copies(database) == {
        (1, "a"): own, (2, "a"): copy, (2, "b"): own, (3, "a"): copy, (3, "b"): (2, None, None), (3, "c"): own,
    }  # fmt: skip
    assert [maps_of(database, run) for run in runs] == [{MAP}] * 3
    with writing(database) as connection:
        connection.execute(update(Run).where(Run.id == 1).values(created_at=text("'2001-01-01 00:00:00+00'")))
    assert purge(database, 1, 365, force=True, actor="anna") is not None
    screen(database, bundle, found("P1", *"abcd"))
    assert copies(database) == {
        (2, "a"): own, (2, "b"): own, (3, "a"): (2, None, None), (3, "b"): (2, None, None), (3, "c"): own,
        (4, "a"): (2, None, None), (4, "b"): (2, None, None), (4, "c"): (3, None, None), (4, "d"): own,
    }  # fmt: skip
    assert [maps_of(database, run) for run in (2, 3, 4)] == [{MAP}] * 3


def test_a_copy_that_is_tried_again_is_its_own(database: Engine, bundle: Bundle) -> None:
    reject(database, screen(database, bundle, found("P1", "a", "b")), b"P1/a", RejectCode.TRUNCATED)
    second = screen(database, bundle, found("P1", "a", "b", "c"))
    again = retry(
        database, second, states=[CaptureState.REJECTED], case_id=None, chunk_size=4, actor="anna"
    )  # fmt: skip
    lease = claimed(database, again.chunk_ids[0])
    finish_chunk(database, lease, outcome(lease))
    assert copies(database)[second, "a"][0] is None
    assert copies(database)[second, "b"][0] == 1


def written(database: Engine) -> list[list[tuple[object, ...]]]:
    """Results, events and queue rows, without their times and what is computed from these, and without the events that
    each kind of database adds in its own words.
    """
    columns = [
        [
            one
            for one in model.__table__.c
            if one.name != "chain_hash" and not str(one.type).startswith(("DATETIME", "TIMESTAMP"))
        ]
        for model in (Case, Event, ReportQueue)
    ]
    of_ours = Event.kind != EventKind.RESULT_CHANGED
    statements = [
        select(*names).where(true() if model is not Event else of_ours).order_by(names[0])
        for model, names in zip((Case, Event, ReportQueue), columns, strict=True)
    ]
    with reading(database) as connection:
        return [[tuple(row) for row in connection.execute(statement)] for statement in statements]


def busy(database: Engine, bundle: Bundle) -> None:
    """Thirty patients in chunks of ten, four times: in some runs two of them share a capture; one run is cancelled."""
    files = [one for patient in range(30) for one in found(f"P{patient:02d}", "0.jpg")]
    for number, shared in enumerate(((), (3, 7, 25), (7, 8), ())):
        run = submit(database, request(bundle, files, chunk_size=10, everything=True))
        for chunk_id in run.chunk_ids:
            lease = claimed(database, chunk_id)
            ended = outcome(lease, 0.1 + number / 5)
            for place, one in enumerate(lease.captures):
                if int(one.path[1:3]) in shared:
                    ended.screened[place] = replace(ended.screened[place], sha256=digest(b"shared"))
            finish_chunk(database, lease, ended)
        if number == 1:
            cancel(database, run.run_id or 0, actor="anna")


def test_cases_are_finished_together_as_if_each_was_alone(
    database: Engine, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(database, bundle)
    one_by_one = open_engine(f"sqlite:///{tmp_path / 'alone.db'}")
    schema.upgrade(one_by_one)
    monkeypatch.setattr(aggregation, "_to_finish_alone", lambda _connection, case_ids, _captures: set(case_ids))
    busy(one_by_one, bundle)
    assert written(database) == written(one_by_one)
    one_by_one.dispose()


def test_an_upgrade_ends_copies_of_copies(database_url: str) -> None:
    """Run 3's copy was copied from that of run 2; run 4's was tried again, and has another map."""
    before = schema.revisions()[schema.revisions().index("0013") - 1]
    later = [
        statement.format(n=n, copied=n - 1, cam=cam, chunk=chunk)
        for n, cam, chunk in ((2, "01", "NULL"), (3, "01", "NULL"), (4, "02", "1"))
        for statement in (
            "INSERT INTO run (id, bundle_digest, root, root_text, submitted, cases, skipped, software_version)"
            " VALUES ({n}, 'd', '/a', '/a', 1, 1, 0, 'test')",
            *(["INSERT INTO chunk (id, run_id, state, captures, attempts) VALUES (1, 4, 'done', 1, 1)"] * (n == 4)),
            'INSERT INTO "case" (id, result_version, run_id, patient_id, state, submitted, screened, rejected,'
            " quarantined, verdict) VALUES ({n}, 1, {n}, 1, 'aggregated', 1, 1, 0, 0, 'all')",
            "INSERT INTO capture (id, run_id, case_id, path, path_text, size_bytes, modified_ns, sha256, state,"
            " probabilities, cam, quality, reused_from, chunk_id) VALUES ({n}, {n}, {n}, '/a/1.jpg', '/a/1.jpg', 9, 9,"
            " 'same', 'screened', '[0.1, 0, 0, 0.9]', '{cam}', '{{}}', {copied}, {chunk})",
        )
    ]
    engine = open_engine(database_url)
    with migrating(engine) as connection:
        write_at(connection, before, [*RUN, "UPDATE capture SET cam = '01', quality = '{}'", *later])
    schema.upgrade(engine)
    with reading(engine) as connection:
        rows = connection.execute(text("SELECT id, reused_from, cam, quality IS NULL FROM capture ORDER BY id")).all()
    assert [(row[0], row[1], row[2] is None, bool(row[3])) for row in rows] == [
        (1, None, False, False), (2, 1, True, True), (3, 1, True, True), (4, None, False, False),
    ]  # fmt: skip
    engine.dispose()
