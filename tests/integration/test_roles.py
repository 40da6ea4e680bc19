"""Each command works with the role of deploy/roles.sql that is made for it, and without one of its rights it ends with
a sentence.
"""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, delete, make_url, text

from contract.bundle import Bundle
from contract.errors import DatabaseForbids
from contract.states import CaptureState, ReportCause, ReviewAction, Verdict
from db import chunks
from db.audit_check import verify
from db.control import cancel, resume, retry
from db.engine import open_engine, writing
from db.fsck import fsck
from db.held import release_held
from db.models import Run
from db.progress import progress
from db.recompute import recompute
from db.report_queue import acknowledge, release, take, waiting_rows
from db.results import finish_chunk
from db.review import Opinion, Reviewer, act, next_case
from db.review import release as give_back
from db.review_queries import case_details, review_list
from db.roles import DUTIES, duties_of, owns
from db.run_report import EvidenceLimits, read_run
from db.runs import named_run
from db.schema import check
from db.settling import settle_identity
from db.submission import submit
from producer.commands.database import database as database_commands
from tests.support.runs import claimed, found, outcome, request, submitted

SQL = Path(__file__).parents[2] / "deploy" / "roles.sql"
ANNA, BEN = Reviewer("anna", "1", "a"), Reviewer("ben", "1", "b")


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """PostgreSQL alone."""
    return postgres_url


@pytest.fixture
def as_role(database: Engine, postgres_url: str) -> Iterator[Callable[[str], Engine]]:
    """The database, as a login that has one of the roles and nothing else."""
    apply(postgres_url)
    logins: list[str] = []
    engines: list[Engine] = []

    def log_in(duty: str) -> Engine:
        login = f"login_{uuid.uuid4().hex[:12]}"
        with writing(database) as connection:
            connection.execute(text(f"CREATE ROLE {login} LOGIN IN ROLE screening_{duty}"))
        logins.append(login)
        engines.append(open_engine(make_url(postgres_url).set(username=login).render_as_string(hide_password=False)))
        return engines[-1]

    yield log_in
    for engine in engines:
        engine.dispose()
    with writing(database) as connection:
        for login in logins:
            connection.execute(text(f"DROP ROLE {login}"))
        for duty in DUTIES:
            connection.execute(text(f"DROP OWNED BY {duty.role}"))


def apply(url: str) -> None:
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SQL.read_text())  # type: ignore[arg-type]


def test_a_night_and_a_morning_each_with_its_role(
    database: Engine, as_role: Callable[[str], Engine], bundle: Bundle
) -> None:
    """Submit, screen, review, deliver: two patients have a capture in common, one is screened again."""
    submitter, worker, reviewer, reader, lis = map(as_role, ("submitter", "worker", "reviewer", "reader", "lis"))
    files = [*found("P1", "1.jpg", "2.jpg"), *found("P2", "1.jpg", "2.jpg"), *found("P3", "1.jpg")]
    first = submit(submitter, request(bundle, files, chunk_size=2, report_at_sign_off=True))
    screen(worker, first.chunk_ids)
    again = submit(submitter, request(bundle, [*files, *found("P3", "2.jpg")], chunk_size=2))
    screen(worker, again.chunk_ids)
    assert progress(reader, 2).cases_finished == 1
    case_id = next_case(reviewer, ANNA, hold_s=60)
    assert case_id is not None
    assert give_back(reviewer, case_id, ANNA)
    settle_identity(reviewer, 1, ANNA, comment="the same smear twice")
    for case in (1, 2):
        act(reviewer, case, ReviewAction.CONFIRM, BEN)
    act(reviewer, 4, ReviewAction.OVERRIDE, BEN, opinion=Opinion(Verdict.BENIGN), comment="no blasts")
    act(reviewer, 4, ReviewAction.SECOND_OPINION, ANNA)
    rows = take(lis, "lis", limit=10, hold_s=60)
    assert {row.cause for row in rows} >= {ReportCause.SIGNED_OFF}
    ids = [row.queue_id for row in rows]
    assert acknowledge(lis, "lis", ids[:1]).done == ids[:1]
    assert release(lis, "lis", ids[1:]).done == ids[1:]
    assert {row.queue_id for row in waiting_rows(lis, limit=10)} >= set(ids[1:])
    for run in (1, 2):
        assert [one.invariant for one in fsck(reader, run, grace_s=0) if not one.holds] == []
        read_run(reader, run, EvidenceLimits(cases=2, counting=2, excluded=2))
    assert [problem for chain in verify(reader) for problem in chain.problems] == []
    assert case_details(reader, 1, captures=2).history
    assert review_list(reader)[1]
    check(reader)


def screen(worker: Engine, chunk_ids: list[int], same: tuple[str, ...] = ("P1/1.jpg", "P2/1.jpg")) -> None:
    """As a worker does; the captures `same` have the same bytes."""
    chunks.sweep(worker, waiting_messages=0, republish_seconds=0)
    for chunk_id in chunk_ids:
        lease = claimed(worker, chunk_id)
        chunks.heartbeat(worker, lease, 60)
        ended = outcome(lease)
        path_of = {one.id: one.path.decode() for one in lease.captures}
        screened = [replace(one, sha256="f" * 64) if path_of[one.capture_id] in same else one for one in ended.screened]
        finish_chunk(worker, lease, replace(ended, screened=screened))


def test_a_run_is_corrected_by_the_submitter(
    database: Engine, as_role: Callable[[str], Engine], bundle: Bundle
) -> None:
    submitter, worker = map(as_role, ("submitter", "worker"))
    run = submitted(submitter, bundle, patients=2, captures=2, chunk_size=2)
    cancel(submitter, 1, actor="anna")
    resume(submitter, 1, actor="anna")
    lease = claimed(worker, run.chunk_ids[0])
    finish_chunk(worker, lease, outcome(lease, rejected=1))
    lease = claimed(worker, run.chunk_ids[1])
    chunks.release(worker, lease, reason="no engine", count_attempt=True)
    assert retry(submitter, 1, states=[CaptureState.REJECTED], case_id=None, chunk_size=2, actor="anna")
    with writing(submitter) as connection:
        release_held(connection, 1, actor="anna")
        policy = named_run(connection, 1).manifest.case_policy
    recompute(submitter, 1, policy, apply=True, actor="anna")


def refused(duty: str) -> list[Callable[[Engine, Bundle], object]]:
    """What a role of this duty must not be able to do."""

    def submit_one(engine: Engine, bundle: Bundle) -> object:
        return submit(engine, request(bundle, found("P9", "1.jpg")))

    def review_one(engine: Engine, _bundle: Bundle) -> object:
        return act(engine, 1, ReviewAction.CONFIRM, ANNA)

    def take_one(engine: Engine, _bundle: Bundle) -> object:
        return take(engine, "lis", limit=1, hold_s=1)

    def claim_one(engine: Engine, _bundle: Bundle) -> object:
        return chunks.claim(engine, 2, worker="w", lease_seconds=9, max_attempts=3)

    def disarm(engine: Engine, _bundle: Bundle) -> None:
        with writing(engine) as connection:
            connection.execute(text("ALTER TABLE review DISABLE TRIGGER ALL"))

    def purge_one(engine: Engine, _bundle: Bundle) -> object:
        with writing(engine) as connection:
            return connection.execute(delete(Run))

    everything: dict[str, Callable[[Engine, Bundle], object]] = {
        "submit": submit_one, "review": review_one, "take": take_one, "claim": claim_one, "disarm": disarm,
        "purge": purge_one,
    }  # fmt: skip
    may = {
        "reader": (),
        "lis": ("take",),
        "worker": ("claim",),
        "submitter": ("submit", "claim"),
        "reviewer": ("review",),
    }
    return [function for name, function in everything.items() if name not in may[duty]]


@pytest.mark.parametrize("duty", [duty.name for duty in DUTIES])
def test_no_role_can_do_anothers_work(
    database: Engine, as_role: Callable[[str], Engine], bundle: Bundle, duty: str
) -> None:
    run = submitted(database, bundle, patients=2, captures=2, chunk_size=2)
    lease = claimed(database, run.chunk_ids[0])
    finish_chunk(database, lease, outcome(lease))
    engine = as_role(duty)
    for function in refused(duty):
        with pytest.raises(DatabaseForbids, match=r"permission denied|must be owner"):
            function(engine, bundle)


@pytest.mark.parametrize(("duty", "table", "right"), [
    ("worker", "capture", "UPDATE"), ("submitter", "run", "INSERT"), ("reviewer", "review", "INSERT"),
    ("lis", "report_queue", "UPDATE"), ("reader", "event", "SELECT"),
])  # fmt: skip
def test_check_names_the_right_that_is_missing(
    database: Engine, as_role: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch,
    duty: str, table: str, right: str,
) -> None:  # fmt: skip
    engine = as_role(duty)
    lacking = {one.name: missing for one, missing in duties_of(engine)}
    assert lacking.pop(duty) == []
    includes = {"worker": ["reader"], "submitter": ["reader", "worker"], "reviewer": ["reader"]}
    for included in includes.get(duty, []):
        assert lacking.pop(included) == []
    assert all(lacking.values()), f"{duty} may do more than its work: {lacking}"
    assert not owns(engine)
    with writing(database) as connection:
        connection.execute(text(f"REVOKE {right} ON {table} FROM screening_{duty}"))
    assert {one.name: missing for one, missing in duties_of(engine)}[duty] == [f"{right} on {table}"]
    monkeypatch.setenv("SCREEN_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    shown = CliRunner().invoke(database_commands, ["check"], standalone_mode=False)
    assert shown.exception is None
    assert f"{right} on" in " ".join(shown.output.split())


def test_the_owner_may_do_everything(database: Engine) -> None:
    assert all(not lacking for _, lacking in duties_of(database))
    assert owns(database)
