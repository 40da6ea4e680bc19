"""The row of a bundle, written at its first submit: with what it says of itself, and the captures it was made with."""

from sqlalchemy import Connection, func, insert, select, update

from contract.bundle import Bundle
from contract.bundle_warnings import TRAINING_SPLITS, bundle_warnings
from contract.states import CaptureState
from db.many import insert_many
from db.models import BundleRow, Capture, TrainingCapture


def ensure_bundle(connection: Connection, bundle: Bundle) -> None:
    """Write the bundle's row if there is none, and what an earlier release did not store. Raises BundleError."""
    values = {"path": str(bundle.path.resolve()), "warnings": bundle_warnings(bundle.manifest)}
    stored = connection.execute(
        select(BundleRow.path, BundleRow.warnings, BundleRow.training_captures).where(BundleRow.digest == bundle.digest)
    ).first()
    if stored is None:
        manifest = bundle.manifest.model_dump(mode="json")
        connection.execute(
            insert(BundleRow).values(digest=bundle.digest, name=bundle.manifest.name, manifest=manifest, **values)
        )
    elif (stored.path, stored.warnings) != tuple(values.values()):
        connection.execute(update(BundleRow).where(BundleRow.digest == bundle.digest).values(values))
    if stored is None or stored.training_captures is None:
        _list_training(connection, bundle)


def _list_training(connection: Connection, bundle: Bundle) -> None:
    digests = bundle.captures_of(TRAINING_SPLITS)
    if digests is None:
        return
    rows = ((bundle.digest, digest) for digest in sorted(digests))
    insert_many(connection, TrainingCapture.__table__, ("bundle_digest", "sha256"), rows)
    connection.execute(
        update(BundleRow).where(BundleRow.digest == bundle.digest).values(training_captures=len(digests))
    )


def in_training(
    connection: Connection, bundle_digest: str, *, run_id: int | None = None, case_id: int | None = None
) -> int | None:
    """How many screened captures of a run, or of a case, the bundle was made with; None if it does not list them."""
    listed = select(BundleRow.training_captures).where(BundleRow.digest == bundle_digest)
    if connection.execute(listed).scalar() is None:
        return None
    of = Capture.run_id == run_id if case_id is None else Capture.case_id == case_id
    known = select(func.count()).where(
        of,
        Capture.state == CaptureState.SCREENED,
        select(TrainingCapture.sha256)
        .where(TrainingCapture.bundle_digest == bundle_digest, TrainingCapture.sha256 == Capture.sha256)
        .exists(),
    )
    return connection.execute(known).scalar_one()
