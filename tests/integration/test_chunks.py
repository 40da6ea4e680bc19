"""Leases: who may screen a chunk, until when, and what happens to one that nobody survives."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text, update

from contract.bundle import Bundle
from contract.errors import DatabaseVersionError, LeaseLost
from contract.states import CaptureState, CaseState, ChunkState
from db import schema
from db.chunks import (
    HOPELESS,
    attempts_so_far,
    claim,
    claim_ahead,
    heartbeat,
    mark_published,
    release,
    sweep,
)
from db.clock import db_now
from db.control import resume
from db.engine import reading, writing
from db.held import give_back_of
from db.models import Capture, Case, Chunk, Event, ReportQueue, Run
from db.progress import Undone, progress, undone
from db.results import finish_chunk
from tests.support.bundles import colour_bundle
from tests.support.runs import claimed, outcome, states, submitted
from worker.chunk_end import end_chunk


def end_lease(database: Engine, chunk_id: int) -> None:
    """As if the time had passed."""
    with writing(database) as connection:
        connection.execute(update(Chunk).where(Chunk.id == chunk_id).values(lease_until=db_now(-1)))


def try_claim(database: Engine, chunk_id: int, max_attempts: int = 3) -> object:
    return claim(database, chunk_id, worker="w2", lease_seconds=60, max_attempts=max_attempts)


def test_a_leased_chunk_cannot_be_claimed_until_its_lease_is_over(database: Engine, bundle: Bundle) -> None:
    (chunk_id,) = submitted(database, bundle, 1, 3).chunk_ids
    claimed(database, chunk_id)
    assert try_claim(database, chunk_id) is None
    end_lease(database, chunk_id)
    assert try_claim(database, chunk_id) is not None


def test_a_done_chunk_is_never_claimed_again(database: Engine, bundle: Bundle) -> None:
    (chunk_id,) = submitted(database, bundle, 1, 3).chunk_ids
    lease = claimed(database, chunk_id)
    finish_chunk(database, lease, outcome(lease))
    assert try_claim(database, chunk_id) is None
    assert try_claim(database, 999_999) is None


def test_a_lease_carries_what_the_worker_needs(database: Engine, bundle: Bundle) -> None:
    (chunk_id,) = submitted(database, bundle, 1, 2).chunk_ids
    lease = claimed(database, chunk_id)
    assert (lease.root, lease.bundle_digest, lease.attempt) == (b"/a", bundle.digest, 1)
    assert lease.bundle_path == str(bundle.path)
    assert [(one.path, one.size_bytes, one.modified_ns) for one in lease.captures] == [
        (b"P000/000.jpg", 100, 1), (b"P000/001.jpg", 100, 1),
    ]  # fmt: skip


def test_a_late_worker_may_not_write_after_another_has_claimed(database: Engine, bundle: Bundle) -> None:
    (chunk_id,) = submitted(database, bundle, 1, 3).chunk_ids
    late = claimed(database, chunk_id, worker="late")
    end_lease(database, chunk_id)
    owner = claimed(database, chunk_id, worker="owner")
    with pytest.raises(LeaseLost):
        heartbeat(database, late, 60)
    with pytest.raises(LeaseLost):
        finish_chunk(database, late, outcome(late, 0.1))
    assert set(_capture_states(database)) == {CaptureState.PENDING}
    finish_chunk(database, owner, outcome(owner, 0.9))
    with pytest.raises(LeaseLost):
        finish_chunk(database, late, outcome(late, 0.1))
    with reading(database) as connection:
        assert connection.execute(select(Case.score)).scalar_one() == pytest.approx(0.9)


def test_a_heartbeat_keeps_a_lease_alive(database: Engine, bundle: Bundle) -> None:
    (chunk_id,) = submitted(database, bundle, 1, 3).chunk_ids
    lease = claimed(database, chunk_id)
    end_lease(database, chunk_id)
    heartbeat(database, lease, 60)
    assert try_claim(database, chunk_id) is None


def test_a_chunk_given_back_is_swept_up_at_once(database: Engine, bundle: Bundle) -> None:
    (chunk_id,) = submitted(database, bundle, 1, 3).chunk_ids
    mark_published(database, [chunk_id])
    release(database, claimed(database, chunk_id), reason="told to stop", count_attempt=False)
    assert sweep(database, waiting_messages=1, republish_seconds=600) == [chunk_id]
    assert claimed(database, chunk_id).attempt == 1
    assert sweep(database, waiting_messages=0, republish_seconds=0) == []


def test_the_sweeper_takes_back_only_leases_that_are_over(database: Engine, bundle: Bundle) -> None:
    first, second = submitted(database, bundle, 2, 4).chunk_ids
    mark_published(database, [first, second])
    claimed(database, first)
    claimed(database, second)
    end_lease(database, second)
    assert sweep(database, waiting_messages=0, republish_seconds=600) == [second]
    assert states(database, Chunk) == {first: ChunkState.LEASED, second: ChunkState.PENDING}


def test_messages_lost_in_redis_are_sent_again_only_when_redis_holds_too_few(database: Engine, bundle: Bundle) -> None:
    chunk_ids = submitted(database, bundle, 4, 4).chunk_ids
    mark_published(database, chunk_ids)
    with writing(database) as connection:
        connection.execute(update(Chunk).values(published_at=db_now(-120)))
    assert sweep(database, waiting_messages=4, republish_seconds=60) == []  # a long queue, nothing is lost
    assert sorted(sweep(database, waiting_messages=0, republish_seconds=60)) == chunk_ids
    assert sweep(database, waiting_messages=0, republish_seconds=60) == []  # sent just now: give it time


def test_a_chunk_that_kills_its_workers_is_halved_until_the_guilty_capture_is_alone(
    database: Engine, bundle: Bundle
) -> None:
    run = submitted(database, bundle, patients=2, captures=4, chunk_size=8)
    with reading(database) as connection:
        guilty = connection.execute(select(Capture.id).where(Capture.path == b"P001/002.jpg")).scalar_one()
    deaths = 0
    while pending := sweep(database, waiting_messages=0, republish_seconds=0):
        for chunk_id in pending:
            lease = claim(database, chunk_id, worker="w", lease_seconds=60, max_attempts=3)
            if lease is None:
                continue
            if guilty in [one.id for one in lease.captures]:
                deaths += 1
                end_lease(database, chunk_id)  # the worker is gone
            else:
                finish_chunk(database, lease, outcome(lease))
    assert deaths == 3 * 4  # chunks of 8, 4, 2 and 1
    with reading(database) as connection:
        bad = connection.execute(select(Capture.id, Capture.reason).where(Capture.state == "quarantined")).all()
        assert [row.id for row in bad] == [guilty]
        assert "3 attempts" in bad[0].reason
        cases = connection.execute(select(Case.state, Case.screened, Case.quarantined).order_by(Case.id)).all()
        assert [tuple(case) for case in cases] == [(CaseState.AGGREGATED, 4, 0), (CaseState.AGGREGATED, 3, 1)]
        assert connection.execute(select(ReportQueue.run_id)).scalars().all() == [run.run_id] * 2
        kinds = connection.execute(select(Event.kind).order_by(Event.id)).scalars().all()
        assert kinds == ["submitted", "halved", "halved", "halved", "quarantined"]


def test_chunks_of_a_cancelled_run_are_neither_claimed_nor_swept(database: Engine, bundle: Bundle) -> None:
    (chunk_id,) = submitted(database, bundle, 1, 3).chunk_ids
    with writing(database) as connection:
        connection.execute(update(Run).values(cancelled_at=db_now()))
    assert try_claim(database, chunk_id) is None
    assert sweep(database, waiting_messages=0, republish_seconds=0) == []


def _capture_states(database: Engine) -> list[str]:
    with reading(database) as connection:
        return list(connection.execute(select(Capture.state)).scalars())


# Of another release


def upgraded_to(database: Engine, version: str) -> None:
    """As a newer release does, under a worker that goes on."""
    with writing(database) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})


REFUSED = f"the database has schema 9000 now, and this worker knows {schema.RELEASE}"


def test_a_worker_claims_nothing_from_a_database_that_was_upgraded_under_it(database: Engine, bundle: Bundle) -> None:
    (chunk_id,) = submitted(database, bundle, 1, 3).chunk_ids
    upgraded_to(database, "9000")
    with pytest.raises(DatabaseVersionError, match=REFUSED):
        attempts_so_far(database, chunk_id)
    with pytest.raises(DatabaseVersionError, match=REFUSED):
        try_claim(database, chunk_id)
    with pytest.raises(DatabaseVersionError, match=REFUSED):
        ahead(database, bundle)
    with reading(database) as connection:
        assert connection.execute(select(Chunk.state, Chunk.attempts, Chunk.worker)).all() == [("pending", 0, None)]
    upgraded_to(database, schema.RELEASE)
    assert claimed(database, chunk_id).attempt == 1


def test_a_chunk_in_hand_while_the_database_is_upgraded_is_given_back_uncounted(
    database: Engine, bundle: Bundle
) -> None:
    run = submitted(database, bundle, 1, 3)
    lease = claimed(database, run.chunk_ids[0])
    upgraded_to(database, "9000")
    with pytest.raises(DatabaseVersionError, match=REFUSED):
        finish_chunk(database, lease, outcome(lease))
    assert end_chunk(database, lease, outcome(lease), lambda path: path, 0.0, []) is None
    assert set(_capture_states(database)) == {CaptureState.PENDING}
    with reading(database) as connection:
        chunk = connection.execute(select(Chunk.state, Chunk.attempts, Chunk.last_error)).one()
    assert tuple(chunk) == (ChunkState.PENDING, 0, None)


def test_the_migrations_of_a_newer_release_do_not_change_what_a_running_worker_knows(
    database: Engine, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed in its place: they lie where the worker would look for its own."""
    (chunk_id,) = submitted(database, bundle, 1, 3).chunk_ids
    shutil.copytree(schema.MIGRATIONS, tmp_path / "migrations")
    (tmp_path / "migrations" / "versions" / "9000_newer.py").write_text("")
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path / "migrations")
    assert schema.head_revision() == "9000"
    upgraded_to(database, "9000")
    with pytest.raises(DatabaseVersionError, match=REFUSED):
        try_claim(database, chunk_id)


# Claimed ahead


def ahead(database: Engine, bundle: Bundle) -> int | None:
    lease = claim_ahead(database, bundle.digest, worker="w1", lease_seconds=60)
    return lease.chunk_id if lease else None


def test_chunks_that_nobody_has_tried_are_claimed_ahead_in_order(database: Engine, bundle: Bundle) -> None:
    ids = submitted(database, bundle, patients=1, captures=12).chunk_ids
    claimed(database, ids[0])
    assert [ahead(database, bundle) for _ in range(3)] == [ids[1], ids[2], None]


def test_a_chunk_that_was_given_back_or_tried_is_not_claimed_ahead(database: Engine, bundle: Bundle) -> None:
    ids = submitted(database, bundle, patients=1, captures=12).chunk_ids
    release(database, claimed(database, ids[0]), reason="the archive is away", count_attempt=False)
    release(database, claimed(database, ids[1]), reason=None, count_attempt=True)
    release(database, claimed(database, ids[2]), reason=None, count_attempt=False)
    assert [ahead(database, bundle) for _ in range(2)] == [ids[2], None]


def test_nothing_is_claimed_ahead_for_another_bundle_or_a_cancelled_run(
    database: Engine, bundle: Bundle, tmp_path: Path
) -> None:
    run = submitted(database, bundle, patients=1, captures=4).run_id
    assert ahead(database, colour_bundle(tmp_path / "other.bundle", name="other")) is None
    with writing(database) as connection:
        connection.execute(update(Run).where(Run.id == run).values(cancelled_at=db_now()))
    assert ahead(database, bundle) is None


def test_eight_workers_claiming_ahead_get_each_chunk_once(database: Engine, bundle: Bundle) -> None:
    ids = submitted(database, bundle, patients=10, captures=16).chunk_ids
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: ahead(database, bundle), range(len(ids))))
    assert sorted(one for one in taken if one is not None) == ids


def test_how_often_a_chunk_was_tried_and_nothing_where_it_cannot_be_claimed(database: Engine, bundle: Bundle) -> None:
    (chunk,) = submitted(database, bundle, patients=1, captures=4).chunk_ids
    assert attempts_so_far(database, chunk) == 0
    lease = claimed(database, chunk)
    assert attempts_so_far(database, chunk) is None
    release(database, lease, reason=None, count_attempt=True)
    assert attempts_so_far(database, chunk) == 1
    assert attempts_so_far(database, chunk + 1000) is None


def test_a_process_that_ended_before_it_had_its_engine_costs_no_attempt_and_its_reason_is_shown(
    database: Engine, bundle: Bundle
) -> None:
    run = submitted(database, bundle, patients=1, captures=4)
    (chunk,) = run.chunk_ids
    for show in (False, True):
        claimed(database, chunk, worker="w1")
        assert give_back_of(database, "w1", (), reason=f"killed{HOPELESS}", max_deaths=3, blame=False, show=show) == [
            chunk
        ]
        assert run.run_id is not None
        now = progress(database, run.run_id)
        assert (now.trouble, now.hopeless) == ((f"killed{HOPELESS}", True) if show else (None, False))
    with reading(database) as connection:
        assert connection.execute(select(Chunk.state, Chunk.attempts)).one() == ("pending", 0)


def test_what_is_left_to_do_changes_as_long_as_any_worker_gets_on(database: Engine, bundle: Bundle) -> None:
    first = submitted(database, bundle, patients=2, captures=4)
    assert undone(database) == Undone(chunks=2, attempts=0, leased=0)
    lease = claimed(database, first.chunk_ids[0])
    assert undone(database) == Undone(chunks=2, attempts=1, leased=1)
    release(database, lease, reason=None, count_attempt=False)
    assert undone(database) == Undone(chunks=2, attempts=0, leased=0)
    lease = claimed(database, first.chunk_ids[0])
    finish_chunk(database, lease, outcome(lease))
    assert undone(database) == Undone(chunks=1, attempts=0, leased=0)


# Chunks at which one process ends after another


def test_a_death_at_a_chunk_blames_no_capture_and_the_third_holds_it(database: Engine, bundle: Bundle) -> None:
    """The process decodes captures of the second chunk while it finishes the first one."""
    run = submitted(database, bundle, patients=2, captures=4)
    first, second = run.chunk_ids
    with reading(database) as connection:
        of_second = connection.execute(select(Capture.id).where(Capture.chunk_id == second)).scalars().all()
    claimed(database, first)
    claimed(database, second)
    back = give_back_of(database, "w1", of_second[:2], reason="killed", max_deaths=3, at=[first])
    assert back == [first, second]
    rows = select(Chunk.id, Chunk.state, Chunk.attempts, Chunk.deaths).order_by(Chunk.id)
    with reading(database) as connection:
        assert connection.execute(rows).all() == [(first, "pending", 1, 1), (second, "pending", 1, 0)]
    assert ahead(database, bundle) is None, "each is screened alone"
    for _ in range(2):
        claimed(database, first)
        held = give_back_of(database, "w1", (), reason="killed", max_deaths=3)
    assert held == []
    assert try_claim(database, first) is None
    assert sweep(database, waiting_messages=0, republish_seconds=0) == [second]
    with reading(database) as connection:
        assert connection.execute(rows).all() == [(first, "held", 3, 3), (second, "pending", 1, 0)]
        assert connection.execute(select(Event.kind).order_by(Event.id)).scalars().all() == ["submitted", "held"]
    assert run.run_id is not None
    lease = claimed(database, second)
    finish_chunk(database, lease, outcome(lease))
    now = progress(database, run.run_id)
    assert (now.only_held, now.held, now.held_reason) == (True, 4, "killed")
    assert set(resume(database, run.run_id, actor="t")) == {first}
    lease = claimed(database, first)
    assert lease.attempt == 1
    finish_chunk(database, lease, outcome(lease))
    assert progress(database, run.run_id).finished


def test_a_process_that_ends_while_it_claims_leaves_a_death_without_a_lease(database: Engine, bundle: Bundle) -> None:
    (chunk_id,) = submitted(database, bundle, 1, 3).chunk_ids
    assert give_back_of(database, "w1", (), reason="killed", max_deaths=2, at=[chunk_id]) == [chunk_id]
    assert give_back_of(database, "w1", (), reason="killed", max_deaths=2, at=[chunk_id]) == []
    assert states(database, Chunk) == {chunk_id: ChunkState.HELD}


def test_deaths_do_not_count_against_captures(database: Engine, bundle: Bundle) -> None:
    """After two deaths at it a chunk still has all its attempts before it is halved."""
    (chunk_id,) = submitted(database, bundle, 1, 3).chunk_ids
    for _ in range(2):
        claimed(database, chunk_id)
        give_back_of(database, "w1", (), reason="killed", max_deaths=3)
    for _ in range(3):
        assert try_claim(database, chunk_id) is not None
        end_lease(database, chunk_id)
    assert try_claim(database, chunk_id) is None
    assert len(states(database, Chunk)) == 2
