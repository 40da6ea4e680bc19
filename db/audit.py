"""The audit: rows of `event`, written in the transaction of the action that they record, and never changed."""

from typing import Any

from sqlalchemy import Connection

from contract.states import EventKind
from db import chain
from db.models import Event

WORKER, SUBMIT = "worker", "submit"
"""Actors that are not a person."""


def note(
    connection: Connection,
    kind: EventKind,
    *,
    actor: str,
    run_id: int | None,
    case_id: int | None = None,
    capture_id: int | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Write what happened and who did it; `run_id` is None if all runs are meant. `detail` holds no patient's name."""
    row = {
        "kind": kind, "actor": actor, "run_id": run_id, "case_id": case_id, "capture_id": capture_id,
        "detail": detail or {},
    }  # fmt: skip
    chain.add(connection, Event, [row])
