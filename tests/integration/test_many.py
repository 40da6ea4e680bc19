"""Many rows are written at once with the values that one by one would have, whatever their type."""

from datetime import datetime
from typing import Any

from sqlalchemy import Engine, event, select

from contract.bundle import Bundle
from contract.states import CaptureState
from db import schema
from db.engine import open_engine, reading, writing
from db.many import update_many
from db.models import Capture
from tests.support.runs import submitted

VALUES: list[dict[str, Any]] = [
    {
        "probabilities": [0.1, 0.2 + 0.1, 5e-324, 1.0], "cam": bytes(range(256)), "quality": {"a": {"b": [None, "ä"]}},
        "marks": [], "novelty": 1 / 3, "excluded": False, "camera": 'x, "y" {NULL} \\', "width": 2**31 - 1,
        "captured_at": datetime(2024, 2, 29, 23, 59, 59),
    },
    {
        "probabilities": [[1], [2, 3]], "cam": b"", "quality": {}, "marks": [{"code": "dark", "sentence": "it's"}],
        "novelty": 0.0, "excluded": True, "camera": "NULL", "width": 0, "captured_at": datetime(1, 1, 1),
    },
    {
        "probabilities": [0.5], "cam": None, "quality": None, "marks": None, "novelty": None, "excluded": None,
        "camera": "", "width": None, "captured_at": None,
    },
]  # fmt: skip


def test_every_value_comes_back_as_it_was_written(database: Engine, bundle: Bundle) -> None:
    submitted(database, bundle, patients=1, captures=5)
    with writing(database) as connection:
        ids = connection.execute(select(Capture.id).order_by(Capture.id)).scalars().all()
        rows = [{"id": capture_id, **values} for capture_id, values in zip(ids, VALUES, strict=False)]
        assert update_many(connection, Capture, rows, state=CaptureState.SCREENED, label="Pro") == 3
    with reading(database) as connection:
        names = [*VALUES[0], "state", "label"]
        read = connection.execute(
            select(*(getattr(Capture, name) for name in names)).order_by(Capture.id)
        ).mappings().all()  # fmt: skip
    assert [dict(row) for row in read[:3]] == [{**values, "state": "screened", "label": "Pro"} for values in VALUES]
    assert [row["state"] for row in read[3:]] == ["pending", "pending"]


def test_rows_that_do_not_fulfil_the_conditions_stay_and_are_not_counted(database: Engine, bundle: Bundle) -> None:
    submitted(database, bundle, patients=1, captures=3)
    with writing(database) as connection:
        ids = connection.execute(select(Capture.id).order_by(Capture.id)).scalars().all()
        rows = [{"id": capture_id, "camera": f"camera {capture_id}"} for capture_id in [*ids, max(ids) + 1]]
        assert update_many(connection, Capture, rows, Capture.id != ids[1]) == 2
        assert update_many(connection, Capture, []) == 0
        cameras = connection.execute(select(Capture.camera).order_by(Capture.id)).scalars().all()
    assert cameras == [f"camera {ids[0]}", None, f"camera {ids[2]}"]


def test_on_postgresql_it_is_one_statement(postgres_url: str, bundle: Bundle) -> None:
    database = open_engine(postgres_url)
    schema.upgrade(database)
    submitted(database, bundle, patients=1, captures=100)
    statements: list[str] = []
    with writing(database) as connection:
        ids = connection.execute(select(Capture.id)).scalars().all()
        event.listen(database, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
        assert update_many(connection, Capture, [{"id": one, "camera": "x"} for one in ids]) == 100
    assert len(statements) == 1
    database.dispose()
