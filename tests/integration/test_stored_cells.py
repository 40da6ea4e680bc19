"""Nucleated cells in the rows: of captures, of their copies, of cases, and where nobody counted them."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select, text, update

from contract.archive import FoundCapture
from contract.bundle import Bundle
from db import schema
from db.engine import migrating, open_engine, reading, writing
from db.fsck import fsck
from db.models import Capture, Case
from db.purge import purge
from db.recompute import bundle_policy, recompute
from db.results import finish_chunk
from db.review_queries import case_details
from db.run_report import EvidenceLimits, read_run
from db.submission import submit
from producer.formats import load_formats
from tests.support.earlier import RUN, write_at
from tests.support.runs import claimed, found, outcome, request

ONE_CELL = bytes((1, 4, 0, 0, 64, 64, 255, 0, 0, 0))
FILES = ("a.jpg", "b.jpg", "c.jpg")
FORMATS = load_formats()


def screen(
    database: Engine, bundle: Bundle, files: list[FoundCapture], *, cells: dict[str, int | None], **more: Any
) -> int:
    """A run of these captures, finished; those in `cells` have that many cells, others one, None is not known."""
    run = submit(database, request(bundle, files, **more))
    for chunk_id in run.chunk_ids:
        lease = claimed(database, chunk_id)
        ended = outcome(lease)
        names = [one.path.rpartition(b"/")[2].decode() for one in lease.captures]
        counted = [cells.get(name, 1) for name in names]
        of_worker = [
            replace(one, nucleated_cells=count, cells=None if count is None else ONE_CELL)
            for one, count in zip(ended.screened, counted, strict=True)
        ]
        finish_chunk(database, lease, replace(ended, screened=of_worker))
    assert run.run_id is not None
    return run.run_id


def cells_of_cases(database: Engine, run: int) -> list[tuple[int | None, int | None, bool | None]]:
    return [(case.counting, case.nucleated_cells, case.cells_at_least) for case in read_run(database, run).cases]


def holds(database: Engine, run: int) -> bool:
    return all(finding.holds for finding in fsck(database, run, grace_s=0))


def test_a_copy_has_the_number_and_leaves_the_cells_with_the_original_until_that_goes(
    database: Engine, bundle: Bundle
) -> None:
    first = screen(database, bundle, found("P1", *FILES), cells={"a.jpg": 5})
    second = screen(database, bundle, found("P1", *FILES, "d.jpg"), cells={"d.jpg": 2})
    rows = select(Capture.path_text, Capture.nucleated_cells, Capture.cells).where(Capture.run_id == second)
    in_order = rows.order_by(Capture.path_text)
    with reading(database) as connection:
        copies = connection.execute(in_order).all()
    assert [(row.nucleated_cells, row.cells is None) for row in copies] == [
        (5, True), (1, True), (1, True), (2, False),
    ]  # fmt: skip
    assert cells_of_cases(database, first) == [(3, 7, False)]
    assert cells_of_cases(database, second) == [(4, 9, False)]
    assert holds(database, second)
    assert purge(database, first, 0, force=True, actor="anna") is not None
    with reading(database) as connection:
        assert [bytes(row.cells) for row in connection.execute(in_order)] == [ONE_CELL] * 4
    assert holds(database, second)


@pytest.mark.parametrize(
    ("cells", "known", "words"),
    [
        ({"a.jpg": 410}, (3, 412, True), "at least 412 nucleated cells in 3 captures"),
        ({"a.jpg": 0, "b.jpg": 0, "c.jpg": 0}, (3, 0, False), "0 nucleated cells in 3 captures"),
        ({"a.jpg": None}, (3, 2, True), "at least 2 nucleated cells in 3 captures"),
        ({"a.jpg": None, "b.jpg": None, "c.jpg": None}, (3, None, True), "nucleated cells not known"),
    ],
    ids=["64 or more", "none", "not known of one", "not known"],
)
def test_every_report_says_how_many_cells_there_are_and_no_more_than_is_known(
    database: Engine, bundle: Bundle, cells: dict[str, int | None], known: tuple[int, int | None, bool], words: str
) -> None:
    run = screen(database, bundle, found("P1", *FILES), cells=cells)
    assert cells_of_cases(database, run) == [known]
    with reading(database) as connection:
        view = "SELECT counting, nucleated_cells, cells_at_least FROM "
        for name in ("case_results", "review_queue"):
            (stored,) = connection.execute(text(view + name)).all()
            assert (stored[0], stored[1], bool(stored[2])) == known
    report = read_run(database, run, EvidenceLimits(cases=1, counting=1, excluded=1))
    assert words in FORMATS["html"].render(report, None)
    assert words.split()[-1] in FORMATS["table"].render(report, None)
    head, row = FORMATS["csv"].render(report, None).splitlines()
    in_csv = dict(zip(head.split(","), row.split(","), strict=False))
    assert (in_csv["counting"], in_csv["nucleated_cells"]) == (str(known[0]), "" if known[1] is None else str(known[1]))
    details = case_details(database, report.cases[0].case_id, captures=3)
    assert (details.counting, details.nucleated_cells, details.cells_at_least) == known


def test_an_upgrade_leaves_what_nobody_counted_empty_and_a_later_case_says_at_least(database_url: str) -> None:
    before = schema.revisions()[schema.revisions().index("0016") - 1]
    engine = open_engine(database_url)
    with migrating(engine) as connection:
        write_at(connection, before, RUN)
    schema.upgrade(engine)
    with reading(engine) as connection:
        assert connection.execute(select(Capture.nucleated_cells, Capture.cells)).all() == [(None, None)]
        (row,) = connection.execute(text("SELECT * FROM case_results")).mappings()
    assert (row["verdict"], row["counting"], row["nucleated_cells"], row["cells_at_least"]) == ("all", None, None, None)
    engine.dispose()


def test_results_of_an_earlier_release_stay_sound_and_are_not_known(database: Engine, bundle: Bundle) -> None:
    run = screen(database, bundle, found("P1", *FILES), cells={})
    with writing(database) as connection:
        connection.execute(update(Capture).values(nucleated_cells=None, cells=None))
        connection.execute(update(Case).values(counting=None, nucleated_cells=None, cells_at_least=None))
    assert holds(database, run)
    assert "nucleated cells not known" in FORMATS["html"].render(read_run(database, run), None)
    later = screen(database, bundle, found("P1", *FILES, "d.jpg"), cells={"d.jpg": 3})
    assert cells_of_cases(database, later) == [(4, 3, True)], "three copies of rows without a number"
    assert holds(database, later)
    assert recompute(database, run, bundle_policy(database, run), apply=True, actor="anna") == [], (
        "no verdict has changed"
    )


@pytest.mark.parametrize("column", ["cells", "nucleated_cells"])
def test_fsck_finds_a_row_with_only_half_of_it(database: Engine, bundle: Bundle, column: str) -> None:
    run = screen(database, bundle, found("P1", *FILES), cells={})
    with writing(database) as connection:
        connection.execute(text(f"UPDATE capture SET {column} = NULL WHERE path_text = 'P1/b.jpg'"))
    broken = {finding.invariant for finding in fsck(database, run, grace_s=0) if not finding.holds}
    assert "nucleated cells are counted where they are kept, and kept where counted" in broken
