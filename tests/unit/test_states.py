"""The closed lists: every code is used, and engines are declared once."""

import re
from itertools import chain

import pytest

from contract.states import Code, EngineName, Precision
from tests.support.commands import REPOSITORY
from worker.engines.registry import ENGINES

PACKAGES = ("contract", "db", "producer", "trainer", "worker")
SOURCES = "\n".join(
    path.read_text(encoding="utf-8")
    for path in chain.from_iterable((REPOSITORY / package).rglob("*.py") for package in PACKAGES)
    if "migrations" not in path.parts
)


@pytest.mark.parametrize("codes", [codes for codes in Code.__subclasses__() if codes not in (EngineName, Precision)])
def test_every_code_is_given_somewhere(codes: type[Code]) -> None:
    unused = [code for code in codes if not re.search(rf"\b{codes.__name__}\.{code.name}\b", SOURCES)]
    assert unused == [], "a page would promise what never happens"


def test_every_engine_that_can_be_named_is_registered_in_the_order_of_auto() -> None:
    assert [EngineName.AUTO, *ENGINES] == list(EngineName)
