"""What `screen status` says comes from the cases; at every stage of a run it is what counting the captures gives."""

from dataclasses import asdict

from sqlalchemy import Engine, func, select, text, update

from contract.bundle import Bundle
from contract.states import CaptureState, ChunkState
from db.chunks import claim
from db.control import cancel, resume, retry
from db.engine import reading, writing
from db.fsck import fsck
from db.held import give_back_of
from db.models import Capture, Chunk
from db.progress import ENDED, progress, run_summaries
from db.results import finish_chunk
from db.submission import submit
from tests.support.runs import claimed, found, outcome, request

NUMBERS = ("submitted", "screened", "rejected", "quarantined", "pending", "reused")


def counted(database: Engine, run: int) -> dict[str, int]:
    with reading(database) as connection:
        states = dict(
            connection.execute(
                select(Capture.state, func.count()).where(Capture.run_id == run).group_by(Capture.state)
            ).all()
        )
        of_run = select(func.count()).where(Capture.run_id == run)
        reused = connection.execute(of_run.where(Capture.reused_from.is_not(None))).scalar_one()
    return {
        "submitted": sum(states.values()),
        **{state.value: states.get(state, 0) for state in CaptureState},
        "reused": reused,
    }


def check(database: Engine, *, held: int = 0) -> list[int]:
    """Compare all runs; returns what of the last one has ended: screened, rejected, quarantined."""
    last: list[int] = []
    for row in reversed(run_summaries(database)):
        expected = counted(database, row.run_id)
        assert {name: asdict(row)[name] for name in NUMBERS} == {name: expected[name] for name in NUMBERS}
        now = progress(database, row.run_id)
        last = [now.screened, now.rejected, now.quarantined]
        assert last == [expected[state.value] for state in ENDED]
        assert now.submitted - now.ended == expected["pending"]
    assert now.held == held
    return last


def test_at_every_stage_of_a_run(database: Engine, bundle: Bundle) -> None:
    files = [one for name in ("P1", "P2", "P3") for one in found(name, *(f"{n}.jpg" for n in range(4)))]
    first = submit(database, request(bundle, files, chunk_size=3))
    assert check(database) == [0, 0, 0]
    one, two, three, four = first.chunk_ids
    lease = claimed(database, one)
    finish_chunk(database, lease, outcome(lease, rejected=1))
    assert check(database) == [2, 1, 0], "no case has its result"
    lease = claimed(database, two)
    finish_chunk(database, lease, outcome(lease))
    assert check(database) == [5, 1, 0], "one case has its result"
    for _ in range(3):
        claimed(database, three, worker="w")
        give_back_of(database, "w", (), reason="killed", max_deaths=3)
    assert check(database, held=3) == [5, 1, 0]
    assert not [one.invariant for one in fsck(database, first.run_id or 0, grace_s=0) if not one.holds]
    assert cancel(database, first.run_id or 0, actor="t")
    check(database, held=3)
    resume(database, first.run_id or 0, actor="t")
    lease = claimed(database, three)
    finish_chunk(database, lease, outcome(lease))
    with writing(database) as connection:
        connection.execute(update(Chunk).where(Chunk.id == four).values(attempts=9))
    halves = []
    assert claim(database, four, worker="w", lease_seconds=60, max_attempts=3) is None
    with reading(database) as connection:
        halves = list(connection.execute(select(Chunk.id).where(Chunk.state == ChunkState.PENDING)).scalars())
    with writing(database) as connection:
        connection.execute(update(Chunk).where(Chunk.id == halves[0]).values(attempts=9))
    assert claim(database, halves[0], worker="w", lease_seconds=60, max_attempts=3) is None
    assert check(database) == [8, 1, 1]
    lease = claimed(database, halves[1])
    finish_chunk(database, lease, outcome(lease))
    assert check(database) == [10, 1, 1]
    again = submit(
        database,
        request(bundle, [*files, *found("P1", "new.jpg")], chunk_size=3),
    )
    assert again.run_id != first.run_id
    check(database)
    for state, left in ((CaptureState.REJECTED, [10, 0, 1]), (CaptureState.QUARANTINED, [10, 0, 0])):
        retry(database, first.run_id or 0, states=[state], case_id=None, chunk_size=3, actor="t")
        now = progress(database, first.run_id or 0)
        assert [now.screened, now.rejected, now.quarantined] == left
        check(database)


def test_captures_of_finished_runs_are_not_read(database: Engine, bundle: Bundle) -> None:
    """The plan of the view: captures are reached from open cases, by an index."""
    submit(database, request(bundle, found("P1", *(f"{n}.jpg" for n in range(4)))))
    if database.dialect.name == "sqlite":
        with reading(database) as connection:
            plan = "\n".join(
                str(row.detail) for row in connection.execute(text("EXPLAIN QUERY PLAN SELECT * FROM run_summary"))
            )
        assert "SEARCH c USING COVERING INDEX ix_capture_case_id_state (case_id=? AND state=?)" in plan, plan
        assert "SCAN c " not in f"{plan} ".replace("\n", " \n"), plan
        return
    with writing(database) as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))  # so few rows fit into one page
        plan = "\n".join(connection.execute(text("EXPLAIN SELECT * FROM run_summary")).scalars())
    assert "ix_capture_case_id_state" in plan, plan
