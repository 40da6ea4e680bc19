"""A reviewer settles that captures of a case lie under other patients too: they looked, and for this case it is right.

What is settled holds for this patient, these captures and these other patients, in later runs too. A capture that turns
up under a third patient, and another one that the two have in common, are conflicts again. The other patients' cases
stay in conflict until somebody settles those as well: there the same capture may be a wrong one.
"""

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select

from contract.bundle import Manifest
from contract.errors import UsageError
from contract.settled import NAMES
from contract.states import ReviewAction
from db.aggregation import ToJudge, result_of, with_policy, write_identity
from db.engine import writing
from db.look_alikes import look_alikes
from db.mix_ups import CONFLICTS, take_turn
from db.models import Case, SettledIdentity
from db.opinions import CaseReview
from db.review import (
    Reviewer,
    locked_case,
    readable,
    refuse_if_held,
    refuse_if_superseded,
    review_of,
    write_action,
)


@dataclass(frozen=True)
class Settled:
    """Where the case's review stands, and how many captures were settled against each other patient's name."""

    review: CaseReview
    against: dict[str, int]


def settle_identity(engine: Engine, case_id: int, reviewer: Reviewer, *, comment: str) -> Settled:
    """Settle every conflict that the case is in now, and write its result again: a confirm from before counts no more.

    Raises NoSuchCase; CaseHeld if another reviewer has the case in hand; UsageError without a comment, or if the case
    has no result yet, is in no conflict, or a newer case took its place.
    """
    why = readable(comment)
    if why is None:
        raise UsageError("say what you found out: --comment TEXT")
    with writing(engine) as connection:
        take_turn(connection, Case.id == case_id)
        locked = locked_case(connection, case_id)
        refuse_if_superseded(locked)
        refuse_if_held(locked, reviewer.name)
        other = Case.__table__.alias()
        pairs = connection.execute(
            select(Case.patient_id, other.c.patient_id.label("other_id"), CONFLICTS.c.other_patient, CONFLICTS.c.sha256)
            .select_from(CONFLICTS)
            .join(Case, Case.id == CONFLICTS.c.case_id)
            .join(other, other.c.id == CONFLICTS.c.other_case_id)
            .where(CONFLICTS.c.case_id == case_id, CONFLICTS.c.settled == 0)
            .distinct()
        ).all()
        alike = [pair for pair in look_alikes(connection, [case_id]) if not pair.settled]
        if not pairs and not alike:
            raise UsageError(
                f"case {case_id} is in no conflict, or it is settled already; `screen review show {case_id}`"
            )
        review_id = write_action(connection, locked, ReviewAction.SETTLE_IDENTITY, reviewer, comment=why)
        connection.execute(
            insert(SettledIdentity),
            [
                {
                    "patient_id": pair.patient_id, "other_patient_id": pair.other_id, "sha256": pair.sha256,
                    "case_id": case_id, "review_id": review_id, "reviewer": reviewer.name,
                }
                for pair in pairs
            ]
            + [
                {
                    "patient_id": pair.patient_id, "other_patient_id": pair.other_patient_id, "sha256": NAMES,
                    "case_id": case_id, "review_id": review_id, "reviewer": reviewer.name,
                }
                for pair in alike
            ],
        )  # fmt: skip
        case = connection.execute(select(Case.submitted, Case.case_policy).where(Case.id == case_id)).one()
        manifest = with_policy(Manifest.model_validate(locked.manifest), case.case_policy)
        columns = result_of(connection, ToJudge(case_id, case.submitted, manifest))
        write_identity(connection, locked.run_id, case_id, columns, actor=reviewer.name, review_id=review_id)
        against = Counter(pair.other_patient for pair in pairs)
        against |= Counter(pair.other_patient for pair in alike if pair.other_patient not in against)
        return Settled(review_of(connection, case_id), dict(against))
