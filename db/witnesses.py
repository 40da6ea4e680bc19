"""Captures of a run that show whether its archive is there: asked for when some of them seem to be missing."""

from collections.abc import Sequence

from sqlalchemy import Engine, func, select

from contract.spread import evenly_spread
from db.engine import reading, slices
from db.models import Capture, Case

FEW = 32
"""So many captures are looked at, spread evenly over the folder or the run."""


def captures_below(engine: Engine, run_id: int, folder: bytes) -> list[bytes]:
    """Up to FEW stored paths of the run's captures below `folder`, in any depth; of the whole run if it is empty."""
    with reading(engine) as connection:
        of_run = select(Capture.path).where(Capture.run_id == run_id)
        if folder:
            below = of_run.where(Capture.path > folder + b"/", Capture.path < folder + b"0")  # 0 follows / in ASCII
            paths = connection.execute(below.order_by(Capture.path)).scalars().all()
            return [paths[place] for place in evenly_spread(len(paths), FEW)]
        first, last = connection.execute(
            select(func.min(Capture.id), func.max(Capture.id)).where(Capture.run_id == run_id)
        ).one()
        starts = [first + int(place) for place in evenly_spread(last - first + 1, FEW)]
        paths = [
            connection.execute(of_run.where(Capture.id >= start).order_by(Capture.id).limit(1)).scalar_one()
            for start in starts
        ]
        return list(dict.fromkeys(paths))


def folder_inodes(engine: Engine, capture_ids: Sequence[int]) -> dict[int, int | None]:
    """The inode that the patient's folder had at submit, for each of these captures; None for runs of before."""
    inodes: dict[int, int | None] = {}
    with reading(engine) as connection:
        for ids in slices(capture_ids, 500):
            rows = connection.execute(
                select(Capture.id, Case.folder_inode).join(Case, Case.id == Capture.case_id).where(Capture.id.in_(ids))
            )
            inodes |= dict(rows.all())
    return inodes
