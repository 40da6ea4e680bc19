"""A run by its number, with its bundle, or the error that there is none."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from contract.bundle import Manifest
from contract.errors import NoSuchRun
from db.models import BundleRow, Run


@dataclass(frozen=True)
class RunRow:
    """A row of `run` with its bundle's name and manifest; docs/data.md describes the columns."""

    id: int
    root: bytes
    submitted: int
    cases: int
    created_at: datetime
    cancelled_at: datetime | None
    report_at_sign_off: bool
    pseudonym_key: str | None
    patient_depth: int
    software_version: str
    bundle_digest: str
    bundle_name: str
    manifest: Manifest


_COLUMNS = (
    Run.id, Run.root, Run.submitted, Run.cases, Run.created_at, Run.cancelled_at, Run.report_at_sign_off,
    Run.pseudonym_key, Run.patient_depth, Run.software_version, Run.bundle_digest, BundleRow.name.label("bundle_name"),
    BundleRow.manifest,
)  # fmt: skip


def named_run(connection: Connection, run_id: int) -> RunRow:
    """The run of this number. Raises NoSuchRun."""
    row = connection.execute(
        select(*_COLUMNS).join(BundleRow, BundleRow.digest == Run.bundle_digest).where(Run.id == run_id)
    ).first()
    if row is None:
        raise NoSuchRun(run_id)
    values = dict(row._mapping)
    return RunRow(**values | {"manifest": Manifest.model_validate(values["manifest"])})


def require_run(connection: Connection, run_id: int) -> None:
    """Raises NoSuchRun if there is no run of this number."""
    if connection.execute(select(Run.id).where(Run.id == run_id)).first() is None:
        raise NoSuchRun(run_id)
