"""The reporting queue: every result is delivered, none acknowledged twice, corrections in their order."""

import json
import multiprocessing
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, func, insert, select, text

from contract.bundle import Bundle
from contract.states import ReviewAction
from db.engine import open_engine, reading, writing
from db.fsck import fsck
from db.models import Case, Patient, ReportQueue
from db.recompute import bundle_policy, recompute
from db.report_queue import QueuedResult, acknowledge, queue_result, release, take, waiting_rows
from db.results import finish_chunk
from db.review import Opinion, Reviewer, act
from db.submission import submit
from tests.support.commands import REPOSITORY, Environment
from tests.support.runs import claimed, found, outcome, request
from tests.support.waiting import wait_until

ANNA = Reviewer("anna", "1.2.3")
CONSUMERS, ROWS = 10, 10_000


def screened(database: Engine, bundle: Bundle, patients: int, *, sign_off: bool = False) -> int:
    """A finished run; the ids of its cases and of its queue rows count up from 1."""
    files = [one for p in range(patients) for one in found(f"P{p:03d}", "0.jpg", "1.jpg")]
    run = submit(database, replace(request(bundle, files, chunk_size=2), report_at_sign_off=sign_off))
    for chunk_id in run.chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, 0.9))
    assert run.run_id is not None
    return run.run_id


def ids(rows: Sequence[QueuedResult]) -> list[int]:
    return [row.queue_id for row in rows]


def holds(database: Engine, run: int) -> bool:
    return all(finding.holds for finding in fsck(database, run, grace_s=0))


def test_the_oldest_results_are_taken_first_and_by_one_consumer_only(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, 5)
    first = take(database, "lis", limit=3, hold_s=60)
    assert ids(first) == [1, 2, 3]
    assert {(row.verdict, row.subtype, row.cause, row.signed_off) for row in first} == {("all", "Pro", "screened", 0)}
    assert first[0].patient == "P000"
    assert ids(take(database, "other", limit=9, hold_s=60)) == [4, 5]
    assert take(database, "lis", limit=9, hold_s=60) == [], "what it has in hand is not given out twice"
    assert acknowledge(database, "lis", [1, 2]).done == [1, 2]
    assert release(database, "lis", [3]).done == [3]
    assert ids(take(database, "other", limit=9, hold_s=60)) == [3]
    assert ids(waiting_rows(database, limit=9)) == [3, 4, 5]


def test_what_is_not_a_consumers_own_is_refused_with_the_reason(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, 3)
    take(database, "lis", limit=2, hold_s=60)
    assert acknowledge(database, "lis", [1]).done == [1]
    answer = acknowledge(database, "other", [1, 2, 3, 99])
    assert answer.done == []
    assert {one: why.split(" 2")[0] for one, why in answer.refused.items()} == {
        1: "was acknowledged", 2: "was taken by lis", 3: "is taken by nobody; take it first",
        99: "there is no such row",
    }  # fmt: skip
    assert acknowledge(database, "lis", [1]).refused.keys() == {1}, "once is enough"
    assert release(database, "other", [2]).done == []


def test_a_forgotten_take_lapses_and_its_late_acknowledgement_counts_only_while_nobody_else_has_the_row(
    database: Engine, bundle: Bundle
) -> None:
    screened(database, bundle, 2)
    assert ids(take(database, "lis", limit=2, hold_s=0.1)) == [1, 2]
    assert acknowledge(database, "lis", [2]).done == [2]
    retaken: list[int] = []

    def is_retaken() -> bool:
        retaken.extend(ids(take(database, "other", limit=2, hold_s=60)))
        return bool(retaken)

    wait_until(is_retaken, what="the take to lapse")
    assert retaken == [1]
    assert acknowledge(database, "lis", [1]).refused == {1: "was taken by other"}
    assert acknowledge(database, "other", [1]).done == [1]


def test_a_correction_is_given_out_when_what_it_replaces_is_acknowledged(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, 2)
    with writing(database) as connection:
        queue_result(connection, 1)
        queue_result(connection, 1)
    assert ids(take(database, "lis", limit=9, hold_s=60)) == [1, 2]
    assert take(database, "other", limit=9, hold_s=60) == []
    acknowledge(database, "lis", [1])
    (second,) = take(database, "other", limit=9, hold_s=60)
    assert (second.queue_id, second.replaces_id, second.cause, second.superseded) == (3, 1, "recomputed", 1)
    acknowledge(database, "other", [3])
    (third,) = take(database, "lis", limit=9, hold_s=60)
    assert (third.queue_id, third.replaces_id, third.superseded) == (4, 3, 0)


def test_an_override_is_delivered_as_the_reviewers_verdict(database: Engine, bundle: Bundle) -> None:
    run = screened(database, bundle, 1)
    acknowledge(database, "lis", ids(take(database, "lis", limit=1, hold_s=60)))
    act(database, 1, ReviewAction.OVERRIDE, ANNA, opinion=Opinion("benign"), comment="reactive lymphocytes")
    (row,) = take(database, "lis", limit=1, hold_s=60)
    assert (row.verdict, row.subtype, row.cause, row.replaces_id) == ("benign", None, "override", 1)
    assert row.signed_off == 1
    assert row.closed_at.tzinfo is not None
    assert holds(database, run)


def test_by_the_policy_of_sign_off_nothing_is_reported_before(database: Engine, bundle: Bundle) -> None:
    run = screened(database, bundle, 2, sign_off=True)
    assert waiting_rows(database, limit=9) == []
    assert holds(database, run)
    stricter = bundle_policy(database, run).model_copy(update={"all_at_least": 0.99})
    recompute(database, run, stricter, apply=True, actor="test")
    assert waiting_rows(database, limit=9) == [], "a recomputed proposal is not signed either"
    act(database, 1, ReviewAction.CONFIRM, ANNA)
    (row,) = waiting_rows(database, limit=9)
    assert (row.cause, row.replaces_id, row.signed_off, row.verdict) == (
        "signed_off", None, 1, "indeterminate",
    )  # fmt: skip
    assert holds(database, run)
    with writing(database) as connection:  # what must not be: the row of a case that nobody has looked at
        connection.execute(insert(ReportQueue).values(run_id=run, case_id=2, cause="signed_off"))
    assert not holds(database, run)


# Ten consumers at once


@pytest.fixture
def ten_thousand(database: Engine, bundle: Bundle) -> Engine:
    """10,000 results of one run, written in bulk."""
    run = screened(database, bundle, 1)
    with writing(database) as connection:
        names = [{"root": b"/a", "external_id": f"Q{number:05d}"} for number in range(ROWS - 1)]
        patients = connection.execute(insert(Patient).returning(Patient.id), names).scalars().all()
        result = {"run_id": run, "state": "aggregated", "submitted": 1, "screened": 1, "rejected": 0, "quarantined": 0}
        cases = connection.execute(
            insert(Case).returning(Case.id),
            [{**result, "verdict": "benign", "patient_id": one} for one in patients],
        ).scalars()
        connection.execute(
            insert(ReportQueue), [{"run_id": run, "case_id": one, "cause": "screened"} for one in cases.all()]
        )
    return database


def consume(url: str, name: str, together: Any, delivered: Any) -> None:
    """Take and acknowledge until nothing is left; every tenth take is forgotten, as by a consumer that died."""
    database, dice = open_engine(url), random.Random(name)
    together.wait(120)
    while True:
        dies = dice.random() < 0.1
        rows = take(database, name, limit=dice.randint(1, 200), hold_s=0.2 if dies else 300)
        if rows and not dies:
            delivered.put(acknowledge(database, name, ids(rows)).done)
        elif not rows and not waiting_rows(database, limit=1):
            return


def test_ten_consumers_deliver_every_one_of_ten_thousand_rows_once(ten_thousand: Engine) -> None:
    url = ten_thousand.url.render_as_string(hide_password=False)
    spawning = multiprocessing.get_context("spawn")
    with spawning.Manager() as manager:
        delivered, together = manager.Queue(), manager.Barrier(CONSUMERS)
        consumers = [
            spawning.Process(target=consume, args=(url, f"consumer-{n}", together, delivered)) for n in range(CONSUMERS)
        ]
        for one in consumers:
            one.start()
        for one in consumers:
            one.join(240)
        assert [one.exitcode for one in consumers] == [0] * CONSUMERS
        done = [one for _ in range(delivered.qsize()) for one in delivered.get()]
    assert len(done) == ROWS, "none was acknowledged twice"
    assert len(set(done)) == ROWS, "every one was delivered"
    with reading(ten_thousand) as connection:
        left = select(func.count()).where(ReportQueue.acknowledged_at.is_(None))
        assert connection.execute(left).scalar() == 0
        by_whom = connection.execute(select(func.count(ReportQueue.taken_by.distinct()))).scalar_one()
    assert by_whom > 1


# As documented


def documented(connection: Connection) -> Iterator[str]:
    language = "postgresql" if connection.dialect.name == "postgresql" else "sqlite"
    page = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    yield from (statement for statement in block.split(";\n") if statement.strip())


def test_the_documented_sql_takes_acknowledges_and_releases(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, 4)
    with writing(database) as connection:
        queue_result(connection, 1)
        take_, acknowledge_, release_ = documented(connection)

        def run_sql(statement: str, **named: Any) -> list[int]:
            used = {name: value for name, value in named.items() if f":{name}" in statement}
            return sorted(connection.execute(text(statement), used).scalars().all())

        def listed(*of: int) -> Any:
            return list(of) if connection.dialect.name == "postgresql" else json.dumps(of)

        hold: Any = 60 if connection.dialect.name == "postgresql" else "+60"
        assert run_sql(take_, consumer="lis", hold=hold) == [1, 2, 3, 4], "not the correction: 1 is not acknowledged"
        assert run_sql(take_, consumer="other", hold=hold) == []
        assert run_sql(acknowledge_, consumer="other", ids=listed(1, 2)) == []
        assert run_sql(acknowledge_, consumer="lis", ids=listed(1, 2)) == [1, 2]
        assert run_sql(acknowledge_, consumer="lis", ids=listed(1, 2)) == []
        assert run_sql(release_, consumer="lis", ids=listed(2, 3)) == [3]
        assert run_sql(take_, consumer="other", hold=hold) == [3, 5]
    assert acknowledge(database, "other", [3, 5]).done == [3, 5], "the command and the SQL understand each other"


def test_the_commands_take_acknowledge_and_release(environment: Environment, bundle: Bundle) -> None:
    environment.screen("db", "upgrade")
    screened(open_engine(environment.database_url), bundle, 3)
    taken = json.loads(environment.screen("queue", "take", "--consumer", "lis", "--limit", "2", "--json").out)
    assert [(row["queue_id"], row["patient"], row["verdict"]) for row in taken] == [
        (1, "P000", "all"),
        (2, "P001", "all"),
    ]
    done = environment.screen("queue", "ack", "1", "2", "3", "--consumer", "lis", "--json")
    assert (done.code, json.loads(done.out)["acknowledged"]) == (2, [1, 2])
    assert "3 is taken by nobody" in done.err
    assert environment.screen("queue", "take", "--consumer", "other").code == 0
    assert environment.screen("queue", "release", "3", "--consumer", "other").code == 0
    listed = environment.screen("queue", "list")
    assert "P002" in listed.out
    assert "for review" in listed.err
