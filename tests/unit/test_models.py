"""Each column of a case, a chunk and a capture says when it gets its value and when it loses it again."""

from dataclasses import fields

import pytest

from contract.case_rule import CaseResult
from contract.outcomes import Screened
from db.columns import Base, Life, columns_of
from db.models import Capture, Case, Chunk

EVERY = tuple(Life)


@pytest.mark.parametrize("model", [Case, Chunk, Capture])
def test_every_column_says_what_happens_to_it(model: type[Base]) -> None:
    assert columns_of(model, *EVERY) == tuple(model.__table__.c.keys()), "see db.columns.Life"


@pytest.mark.parametrize("model", [Case, Chunk, Capture])
def test_what_is_emptied_may_be_empty(model: type[Base]) -> None:
    for name in columns_of(model, Life.OUTCOME, Life.LEASE):
        assert model.__table__.c[name].nullable, name


def test_what_a_worker_finds_out_of_a_capture_is_an_outcome_and_is_copied_and_emptied_as_one() -> None:
    found = {field.name for field in fields(Screened)} - {"capture_id"}
    by_others = {"reject_code", "reason", "engine", "ended_at"}
    assert set(columns_of(Capture, Life.OUTCOME)) == found | by_others


def test_what_the_case_rule_answers_is_an_outcome() -> None:
    assert {field.name for field in fields(CaseResult)} <= set(columns_of(Case, Life.OUTCOME))
    assert set(columns_of(Case, compared=True)) == {"state", "verdict", "subtype", "score"}
